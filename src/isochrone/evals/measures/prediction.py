"""Does it predict? Imagined frames against what was really there, at every horizon."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth
from isochrone.evals.model_access import encode, filtered, generator, needs, numpy
from isochrone.evals.stats import bootstrap_mean

BURN_IN = 2
"""Rows seen before the first imagined step."""
GALLERY = 512
FILM = 8


@register("metric", "prediction")
@needs("encode_image", "update", "imagine")
@torch.no_grad()
def prediction(model: Any, batch: Batch, truth: Truth, rng: torch.Generator, horizon: int = 16) -> dict[str, Any]:
    """Open-loop error, and how often the imagined z finds the true place again.

    Errors are divided by the spread of z (root mean squared distance to its mean): 1 is as good as knowing the mean.
    Floor: z stays what it was. Retrieval: the nearest recorded z must show the box where it really is (within 0.5 px).
    """
    starts, horizon = _starts(batch, horizon)
    z = numpy(encode(model, batch.obs["image"].flatten(0, 1)).unflatten(0, batch.shape))  # (B, T, Z)
    states = filtered(model, batch, truth.spec.action)  # State[B, T]
    spread = max(float(np.sqrt(((z - z.mean((0, 1))) ** 2).sum(-1).mean())), 1e-12)
    guess, valid = [], []  # per start: (B, H, Z), (B, H)
    joint = numpy(batch.connected(1)) > 0  # (B, T-1)
    for t in starts:
        imagined = model.imagine(states[:, t], batch.action[:, None, t : t + horizon].to(states.z.device))
        guess.append(numpy(imagined.z[:, 0]))
        valid.append(np.cumprod(joint[:, t : t + horizon], 1) > 0)
    guesses, valids = np.stack(guess, 1), np.stack(valid, 1)  # (B, S, H, Z), (B, S, H)
    at = np.array(starts)[:, None] + np.arange(1, horizon + 1)  # (S, H)
    targets = z[:, at]  # (B, S, H, Z)
    still = np.broadcast_to(z[:, np.array(starts)][:, :, None], targets.shape)
    error = np.linalg.norm(guesses - targets, axis=-1) / spread
    floor = np.linalg.norm(still - targets, axis=-1) / spread
    curve, low, high = _curve(error, valids, generator(rng))
    out: dict[str, Any] = {
        "horizon": np.arange(1, horizon + 1),
        "error": curve,
        "error_low": low,
        "error_high": high,
        "error_still": _curve(floor, valids, generator(rng))[0],
        "error_1": float(curve[0]),
        "error_1.interval": (low[0], high[0]),
        "error_1.floor": float(_mean(floor[:, :, 0], valids[:, :, 0])),
        "error_end": float(curve[-1]),
        "error_end.interval": (low[-1], high[-1]),
        "error_end.floor": float(_mean(floor[:, :, -1], valids[:, :, -1])),
    }
    out |= _retrieval(guesses, still, valids, at, z, truth, rng)
    return out | _film(model, batch, states, truth, horizon)


def _starts(batch: Batch, horizon: int) -> tuple[list[int], int]:
    length = batch.shape[1]
    horizon = min(horizon, length - BURN_IN - 1)
    if horizon < 1:
        raise UserError(
            f"prediction needs recordings of at least {BURN_IN + 2} rows; this one has {length}: raise length"
        )
    return list(range(BURN_IN, length - horizon, max(1, horizon // 2))), horizon


def _mean(values: np.ndarray, valid: np.ndarray) -> float:
    return float(values[valid].mean()) if valid.any() else float("nan")


def _curve(error: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B, S, H) -> mean per horizon and its interval; episodes are resampled, not rows."""
    mean, low, high = [], [], []
    for k in range(error.shape[-1]):
        rows = [_mean(e, v) for e, v in zip(error[..., k], valid[..., k], strict=True) if v.any()]
        mean.append(_mean(error[..., k], valid[..., k]))
        ends = bootstrap_mean(np.array(rows), rng, 400) if rows else (np.nan, np.nan)
        low.append(ends[0])
        high.append(ends[1])
    return np.array(mean), np.array(low), np.array(high)


def _retrieval(
    guess: np.ndarray,
    still: np.ndarray,
    valid: np.ndarray,
    at: np.ndarray,
    z: np.ndarray,
    truth: Truth,
    rng: torch.Generator,
) -> dict[str, Any]:
    """hit@1 and hit@5 of the true place among distinct recorded places, and how many pixels off the nearest one is."""
    position = numpy(truth.position)  # (B, T, 2)
    where, first = np.unique(np.round(position.reshape(-1, 2), 2), axis=0, return_index=True)
    if len(first) > GALLERY:
        keep = generator(rng).choice(len(first), GALLERY, replace=False)
        where, first = where[keep], first[keep]
    gallery = torch.from_numpy(z.reshape(-1, z.shape[-1])[first])  # (G, Z)
    truly = position[:, at]  # (B, S, H, 2)
    out: dict[str, Any] = {}
    for name, vectors in (("", guess), (".floor", still)):
        order = torch.cdist(torch.from_numpy(vectors.reshape(-1, z.shape[-1])), gallery).topk(
            min(5, len(first)), largest=False
        )
        found = where[order.indices.numpy()].reshape(*guess.shape[:3], -1, 2)  # (B, S, H, 5, 2)
        off = np.linalg.norm(found - truly[..., None, :], axis=-1)  # pixels
        hit = off <= 0.5
        for k in (1, 5):
            curve, low, high = _curve(hit[..., :k].any(-1).astype(float), valid, generator(rng))
            out[f"hit_{k}_1{name}"] = float(curve[0])
            out[f"hit_{k}_end{name}"] = float(curve[-1])
            if not name:
                out[f"hit_{k}"] = curve
                out[f"hit_{k}_1.interval"], out[f"hit_{k}_end.interval"] = (low[0], high[0]), (low[-1], high[-1])
        out[f"position_error_end{name}"] = _mean(off[..., -1, 0], valid[..., -1])
        out["position_error" if not name else "position_error_still"] = _curve(off[..., 0], valid, generator(rng))[0]
    return out | {"gallery": float(len(first))}


def _film(model: Any, batch: Batch, states: Any, truth: Truth, horizon: int) -> dict[str, Any]:
    """Frames for the film strip: one whole episode that passes a pipe if one does, else the one that moves most."""
    if not hasattr(model, "decode"):
        return {}
    span = slice(BURN_IN, BURN_IN + horizon)
    whole = truth.valid[:, span].all(-1)
    interest = truth.moved[:, span].sum(-1) + 100 * truth.teleported[:, span].any(-1) + 1000 * whole
    row = int(interest.argmax())
    now = states[row : row + 1]
    imagined = model.imagine(now[:, BURN_IN], batch.action[row : row + 1, None, span].to(now.z.device))
    pick = np.unique(np.linspace(1, horizon, min(FILM, horizon)).round().astype(int))
    frames = batch.obs["image"][row, BURN_IN + torch.from_numpy(pick)]

    def pictures(state: Any) -> np.ndarray:
        return model.decode(state).clamp(0, 1).cpu().numpy()

    predicted = pictures(imagined[0, 0][torch.from_numpy(pick) - 1])
    real = frames.numpy() / np.float32(255)
    rebuilt = pictures(now[0][BURN_IN + torch.from_numpy(pick)])
    return {
        "film_step": pick,
        "film_truth": real,  # (K, C, Y, X), 0..1
        "film_reconstruction": rebuilt,
        "film_prediction": predicted,
        "film_pixel_error": float(((predicted - real) ** 2).sum((1, 2, 3)).mean()),
    }
