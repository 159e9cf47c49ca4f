"""What a model with a decoder foresees: frames and rewards of imagined futures against those that came."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.model_access import blind, device_of, filtered, generator, needs, numpy
from isochrone.evals.stats import bootstrap_mean

BURN_IN = 5
"""Rows seen before the first imagined step."""
FUTURES = 8
"""Futures drawn from each start."""
FILM = 10


@register("metric", "foresight")
@needs("decode", "rewards", "imagine", "observe")
@blind
@torch.no_grad()
def foresight(model: Any, batch: Batch, truth: Any, rng: torch.Generator, horizon: int = 16) -> dict[str, Any]:
    """Open-loop error in pixels and in reward at every horizon; needs no ground truth.

    Pixel errors are squared differences summed over a frame (0..1), meaned over the futures drawn, and divided by the
    frames' own variance: 1 is as good as knowing the mean frame. Floor: the last frame seen. pixel_kept: the same of
    frames just seen (the posterior's reconstruction). Rewards: share of variance explained by the mean over futures.
    chance_K: variance of h over the futures drawn from one start, as share of its variance over the recording.
    """
    batch = batch.to(device_of(model))
    length = batch.shape[1]
    horizon = min(horizon, length - BURN_IN - 1)
    if horizon < 1:
        raise UserError(f"foresight needs recordings of {BURN_IN + 2} rows; this one has {length}: raise eval.length")
    starts = list(range(BURN_IN, length - horizon, max(1, horizon // 2)))
    states = filtered(model, batch, model.action)
    frames = batch.obs["image"].float() / 255 if "image" in batch.obs else None
    joint = batch.connected(1)
    errors, still, rewards, valid, chance = [], [], [], [], []
    for t in starts:
        moves = batch.action[:, None, t : t + horizon].expand(-1, FUTURES, -1, -1)
        dreamt = model.imagine(states[:, t], moves, rng, shared_noise=True)  # State[B, N, H]
        rewards.append(model.rewards(dreamt).mean(1))  # (B, H)
        valid.append(joint[:, t : t + horizon].cumprod(1).bool())
        chance += [found] if (found := _by_chance(dreamt)) is not None else []
        if frames is not None:
            errors.append(_pixels(model, dreamt, frames[:, t + 1 : t + 1 + horizon]))
            still.append((frames[:, t, None] - frames[:, t + 1 : t + 1 + horizon]).square().flatten(2).sum(-1))
    at = torch.tensor(starts)[:, None] + torch.arange(1, horizon + 1)  # (S, H)
    there = numpy(torch.stack(valid, 1)) > 0  # (B, S, H)
    out: dict[str, Any] = {"horizon": np.arange(1, horizon + 1)}
    out |= _reward(numpy(torch.stack(rewards, 1)), numpy(batch.reward[:, at]), there, horizon)
    out |= _chance(states, chance, there)
    if frames is not None:
        scale = float((frames - frames.mean((0, 1))).square().flatten(2).sum(-1).mean().clamp_min(1e-9))
        pixel, floor = (numpy(torch.stack(x, 1)) / scale for x in (errors, still))
        out |= _curve(pixel, floor, there, generator(rng)) | _film(model, batch, states, frames, horizon, rng)
        out["pixel_kept"] = _kept(model, states[:, BURN_IN:], frames[:, BURN_IN:]) / scale
    return out


def _pixels(model: Any, dreamt: Any, real: Tensor) -> Tensor:
    """(B, H) squared error, mean over the futures; one future at a time, for frames are large."""
    total = torch.zeros(real.shape[:2], device=real.device)
    for n in range(FUTURES):
        shown = model.decode(dreamt[:, n]).clamp(0, 1)
        total += (shown - real).square().flatten(2).sum(-1) / FUTURES
    return total


def _kept(model: Any, states: Any, real: Tensor) -> float:
    """Squared error of the frames that the beliefs at their own rows show; one row at a time."""
    rows = [(model.decode(states[:, t]).clamp(0, 1) - real[:, t]).square() for t in range(real.shape[1])]
    return float(torch.stack([row.flatten(1).sum(-1).mean() for row in rows]).mean())


def _by_chance(dreamt: Any) -> Tensor | None:
    """(B, H) variance of h over futures, summed over h; None where there is no h."""
    h = getattr(dreamt, "h", None)
    return h.var(1).sum(-1) if h is not None and h.shape[-1] else None


def _chance(states: Any, found: list[Tensor], valid: np.ndarray) -> dict[str, float]:
    """Means over the steps before an episode's end; nothing after one step, where h has seen no drawn z yet."""
    if not found or valid.shape[-1] < 2:
        return {}
    whole = float(states.h.flatten(0, 1).var(0).sum().clamp_min(1e-12))
    share = numpy(torch.stack(found, 1)) / whole  # (B, S, H)
    told = {"2": 1, "end": valid.shape[-1] - 1}
    return {f"chance_{n}": float(share[..., k][valid[..., k]].mean()) for n, k in told.items() if valid[..., k].any()}


def _curve(error: np.ndarray, floor: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    mean, low, high, still = [], [], [], []
    for k in range(error.shape[-1]):
        rows = [e[v].mean() for e, v in zip(error[..., k], valid[..., k], strict=True) if v.any()]
        ends = bootstrap_mean(np.array(rows), rng, 400) if rows else (np.nan, np.nan)
        mean.append(float(np.mean(rows)) if rows else np.nan)
        low.append(ends[0])
        high.append(ends[1])
        still.append(floor[..., k][valid[..., k]].mean() if valid[..., k].any() else np.nan)
    out: dict[str, Any] = {"pixel": np.array(mean), "pixel_low": np.array(low), "pixel_high": np.array(high)}
    out["pixel_still"] = np.array(still)
    for name, k in (("1", 0), ("5", 4), ("end", -1)):
        if k >= len(mean):
            continue
        out |= {f"pixel_{name}": mean[k], f"pixel_{name}.interval": (low[k], high[k]), f"pixel_{name}.floor": still[k]}
    return out


def _reward(guess: np.ndarray, real: np.ndarray, valid: np.ndarray, horizon: int) -> dict[str, Any]:
    """R^2 of the reward at each horizon and over all; nothing where it never varies."""
    curve = []
    for k in range(horizon):
        x, y = guess[..., k][valid[..., k]], real[..., k][valid[..., k]]
        spread = float(((y - y.mean()) ** 2).sum()) if y.size else 0.0
        curve.append(1 - float(((x - y) ** 2).sum()) / spread if spread > 1e-9 else np.nan)
    x, y = guess[valid], real[valid]
    spread = float(((y - y.mean()) ** 2).sum()) if y.size else 0.0
    if spread <= 1e-9:
        return {}
    return {"reward": np.array(curve), "reward_r2": 1 - float(((x - y) ** 2).sum()) / spread, "reward_r2.floor": 0.0}


def _film(model: Any, batch: Batch, states: Any, frames: Tensor, horizon: int, rng: torch.Generator) -> dict[str, Any]:
    """The episode that changes most: what came, what the posterior kept, the likeliest future and two drawn ones."""
    span = slice(BURN_IN + 1, BURN_IN + 1 + horizon)
    whole = batch.connected(1)[:, BURN_IN : BURN_IN + horizon].all(-1)
    change = frames[:, span].diff(dim=1).abs().flatten(1).sum(-1)
    row = int((change + 1e9 * whole).argmax())
    moves = batch.action[row : row + 1, None, BURN_IN : BURN_IN + horizon]
    pick = torch.from_numpy(np.unique(np.linspace(1, horizon, min(FILM, horizon)).round().astype(int)))
    begin = states[row : row + 1, BURN_IN]
    likely = model.imagine(begin, moves)[0, 0]
    drawn = model.imagine(begin, moves.expand(1, 2, -1, -1), rng, shared_noise=True)[0]

    def shown(state: Any) -> np.ndarray:
        return model.decode(state).clamp(0, 1).cpu().numpy()

    return {
        "film_step": pick.numpy(),
        "film_truth": frames[row, BURN_IN + pick].cpu().numpy(),  # (K, C, Y, X), 0..1
        "film_kept": shown(states[row][BURN_IN + pick]),
        "film_likely": shown(likely[pick - 1]),
        "film_drawn": shown(drawn[0][pick - 1]),
        "film_drawn_too": shown(drawn[1][pick - 1]),
    }
