"""Does it predict? Open-loop prediction in latent space, at every horizon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isochrone.core.errors import UserError
from isochrone.core.protocols import Decodes, Encodes, GroundTruth
from isochrone.core.types import Batch
from isochrone.evals.context import Context
from isochrone.evals.figure import THEMES, figure, film_strip, has
from isochrone.evals.ground_truth import RecordedTruth
from isochrone.evals.metric import Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import encode, filtered, numpy, numpy_generator
from isochrone.evals.stats import horizon_curve, valid_mean

BURN_IN = 2
"""Rows filtered before the first imagined step."""
GALLERY = 512
"""Maximum number of distinct recorded places among which the true one is retrieved."""
FILM = 8
"""Frames of the film strip."""
COLLAPSED = 1e-6
"""Spread of z, in units of its largest value (at least 1), up to which z has collapsed: the rest is rounding."""
STILL = "z stays what it was at the last frame"

PREDICT = Question(
    "predict",
    "Does it predict?",
    "The model filters a few frames, then imagines without any while the recorded actions are played; a good model "
    "stays far below the dashed baseline at every horizon and shows the box where it really is.",
    order=10,
)


@family("openloop_latent", PREDICT, needs=[Encodes], env=[GroundTruth], draw_order=9, place=0)
@metric(
    "openloop_latent.error_1",
    "error of z after 1 imagined step, in units of its spread",
    "{:.3f}",
    baseline=STILL,
    watch=True,
)
@metric(
    "openloop_latent.error_end",
    "error of z at the longest horizon",
    "{:.3f}",
    baseline=STILL,
)
@metric(
    "openloop_latent.top1_hit_1",
    "true place retrieved after 1 step",
    "%",
    baseline=STILL,
)
@metric(
    "openloop_latent.top1_hit_end",
    "true place retrieved at the longest horizon",
    "%",
    baseline=STILL,
)
@metric(
    "openloop_latent.top5_hit_1",
    "true place among the nearest five after 1 step",
    "%",
    baseline=STILL,
    detail=True,
)
@metric("openloop_latent.top5_hit_end", "… among the nearest five", "%", baseline=STILL)
@metric(
    "openloop_latent.position_error_end",
    "error of the retrieved position at the longest horizon, px",
    baseline=STILL,
)
@metric("openloop_latent.gallery_size", "distinct recorded places that can be retrieved", "{:.0f}", detail=True)
@metric("openloop_latent.film_pixel_error", "squared error of the film strip's frames", "{:.1f}", detail=True)
@torch.no_grad()
def openloop_latent(context: Context) -> dict[str, Any]:
    """Open-loop error of z, and how often the true place is retrieved from the imagined z.

    Errors are divided by the spread of z (root mean squared distance to its mean): 1 is as good as knowing the mean.
    Retrieval: the nearest recorded z must show the box where it really is (within 0.5 px).
    """
    model, batch, truth, rng = context.model, context.rows, context.truth, context.rng
    starts, horizon = _starts(batch, context.config.horizon)
    z = numpy(encode(model, batch.obs["image"].flatten(0, 1)).unflatten(0, batch.shape))  # (B, T, Z)
    states = filtered(model, batch, truth.spec.action)  # State[B, T]
    spread = float(np.sqrt(((z - z.mean((0, 1))) ** 2).sum(-1).mean()))
    if not spread > COLLAPSED * max(1.0, float(np.abs(z).max())):
        collapsed = Refused("z is the same for every frame: there is nothing to predict or to retrieve")
        return {m.key.partition(".")[2]: collapsed for m in openloop_latent.metrics if m.baseline}
    predicted, valid = [], []  # per start: (B, H, Z), (B, H)
    connected = numpy(batch.connected(1)) > 0  # (B, T-1)
    for t in starts:
        imagined = model.imagine(states[:, t], batch.action[:, None, t : t + horizon].to(states.z.device))
        predicted.append(numpy(imagined.z[:, 0]))
        valid.append(np.cumprod(connected[:, t : t + horizon], 1) > 0)
    predictions, valids = np.stack(predicted, 1), np.stack(valid, 1)  # (B, S, H, Z), (B, S, H)
    at = np.array(starts)[:, None] + np.arange(1, horizon + 1)  # (S, H)
    targets = z[:, at]  # (B, S, H, Z)
    unchanged = np.broadcast_to(z[:, np.array(starts)][:, :, None], targets.shape)
    error = np.linalg.norm(predictions - targets, axis=-1) / spread
    baseline = np.linalg.norm(unchanged - targets, axis=-1) / spread
    curve, low, high = horizon_curve(error, valids, numpy_generator(rng))
    out: dict[str, Any] = {
        "horizon": np.arange(1, horizon + 1),
        "error": curve,
        "error_low": low,
        "error_high": high,
        "error_baseline": horizon_curve(baseline, valids, numpy_generator(rng))[0],
    }
    for name, k in (("1", 0), ("end", -1)):
        out[f"error_{name}"] = Estimate(curve[k], (low[k], high[k]), valid_mean(baseline[:, :, k], valids[:, :, k]))
    out |= _retrieval(predictions, unchanged, valids, at, z, truth, rng)
    return out | _film(model, batch, states, truth, horizon) if isinstance(model, Decodes) else out


def _starts(batch: Batch, horizon: int) -> tuple[list[int], int]:
    """Rows from which to imagine, and how far."""
    length = batch.shape[1]
    horizon = min(horizon, length - BURN_IN - 1)
    if horizon < 1:
        raise UserError(
            f"open-loop prediction needs recordings of at least {BURN_IN + 2} rows; this one has {length}: "
            f"raise eval.length"
        )
    return list(range(BURN_IN, length - horizon, max(1, horizon // 2))), horizon


def _retrieval(
    predictions: Float[np.ndarray, "B S H Z"],
    unchanged: Float[np.ndarray, "B S H Z"],
    valid: Bool[np.ndarray, "B S H"],
    at: Int[np.ndarray, "S H"],
    z: Float[np.ndarray, "B T Z"],
    truth: RecordedTruth,
    rng: torch.Generator,
) -> dict[str, Any]:
    """Top-1 and top-5 hits of the true place among distinct recorded places, and the error of the nearest one in px."""
    position = numpy(truth.position)  # (B, T, 2)
    places, first = np.unique(np.round(position.reshape(-1, 2), 2), axis=0, return_index=True)
    if len(first) > GALLERY:
        keep = numpy_generator(rng).choice(len(first), GALLERY, replace=False)
        places, first = places[keep], first[keep]
    gallery = torch.from_numpy(z.reshape(-1, z.shape[-1])[first])  # (G, Z)
    true = position[:, at]  # (B, S, H, 2)
    curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    error_end: dict[str, float] = {}
    for name, vectors in (("imagined", predictions), ("baseline", unchanged)):
        points = torch.tensor(vectors.reshape(-1, z.shape[-1]))  # a copy: the baseline is a view that cannot be written
        nearest = torch.cdist(points, gallery).topk(min(5, len(first)), largest=False)
        retrieved = places[nearest.indices.numpy()].reshape(*predictions.shape[:3], -1, 2)  # (B, S, H, 5, 2)
        error = np.linalg.norm(retrieved - true[..., None, :], axis=-1)  # px
        hit = error <= 0.5
        for k in (1, 5):
            hits = hit[..., :k].any(-1).astype(float)
            curves[f"top{k} {name}"] = horizon_curve(hits, valid, numpy_generator(rng))
        error_end[name] = valid_mean(error[..., -1, 0], valid[..., -1])
        curves[f"error {name}"] = horizon_curve(error[..., 0], valid, numpy_generator(rng))
    out: dict[str, Any] = {"gallery_size": float(len(first))}
    for k in (1, 5):
        (mean, low, high), baseline = curves[f"top{k} imagined"], curves[f"top{k} baseline"][0]
        out[f"top{k}_hit"] = mean
        for name, step in (("1", 0), ("end", -1)):
            out[f"top{k}_hit_{name}"] = Estimate(mean[step], (low[step], high[step]), baseline[step])
    return out | {
        "position_error": curves["error imagined"][0],
        "position_error_baseline": curves["error baseline"][0],
        "position_error_end": Estimate(error_end["imagined"], baseline=error_end["baseline"]),
    }


def _film(model: Any, batch: Batch, states: Any, truth: RecordedTruth, horizon: int) -> dict[str, Any]:
    """Frames of one whole episode: one that passes a pipe if there is one, else the one that moves most."""
    span = slice(BURN_IN, BURN_IN + horizon)
    unbroken = truth.valid[:, span].all(-1)
    interest = truth.moved[:, span].sum(-1) + 100 * truth.teleported[:, span].any(-1) + 1000 * unbroken
    row = int(interest.argmax())
    now = states[row : row + 1]
    imagined = model.imagine(now[:, BURN_IN], batch.action[row : row + 1, None, span].to(now.z.device))
    film_steps = np.unique(np.linspace(1, horizon, min(FILM, horizon)).round().astype(int))
    steps = torch.from_numpy(film_steps)

    def frames(state: Any) -> np.ndarray:
        return model.decode(state).clamp(0, 1).cpu().numpy()

    predicted = frames(imagined[0, 0][steps - 1])
    true = batch.obs["image"][row, BURN_IN + steps].numpy() / np.float32(255)
    return {
        "film_step": film_steps,
        "film_truth": true,  # (K, C, Y, X), 0..1
        "film_reconstruction": frames(now[0][BURN_IN + steps]),
        "film_prediction": predicted,
        "film_pixel_error": float(((predicted - true) ** 2).sum((1, 2, 3)).mean()),
    }


# --- figures --------------------------------------------------------------------------------------------------------


@figure("film", PREDICT, order=10)
def film(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """True, reconstructed and imagined frames and the error, from `openloop_latent.film_*`."""
    names = [f"openloop_latent.film_{kind}" for kind in ("truth", "reconstruction", "prediction")]
    if not has(arrays, *names):
        return None
    true, reconstructed, predicted = (np.asarray(arrays[name]) for name in names)
    # Walls are faint against the box; a square root brings them out equally in every row.
    strips = {
        "truth": np.sqrt(true.clip(0, 1)),
        "decoded from z": np.sqrt(reconstructed.clip(0, 1)),
        "imagined": np.sqrt(predicted.clip(0, 1)),
        "error": (predicted - true).mean(1, keepdims=True),  # grey: mean over channels
    }
    scales = {"error": {"cmap": "PuOr", "vmin": -1, "vmax": 1}}
    return film_strip(strips, np.asarray(arrays["openloop_latent.film_step"]).tolist(), theme, scales)


@figure("openloop", PREDICT, order=11)
def openloop(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Error of z, retrieval and position error at every horizon."""
    if not has(arrays, "openloop_latent.horizon", "openloop_latent.error"):
        return None
    of = {k.removeprefix("openloop_latent."): np.asarray(v) for k, v in arrays.items() if "openloop_latent" in k}
    at, t = of["horizon"], THEMES[theme]
    model, baseline = t.cycle[0], t.cycle[1]
    drawing = Figure(figsize=(10.6, 3.5))
    error, hits, pixels = drawing.subplots(1, 3)
    error.fill_between(at, of["error_low"], of["error_high"], color=model, alpha=0.2, lw=0)
    error.plot(at, of["error"], color=model, label="imagined")
    error.plot(at, of["error_baseline"], color=baseline, ls="--", label="z stays as it was")
    error.axhline(1, color=t.quiet, lw=1, ls=":")
    error.annotate(
        "the mean of z", (at[-1], 1), (0, 3), textcoords="offset points", ha="right", fontsize=8.5, color=t.quiet
    )
    error.set_title("Error of z, in units of its spread")
    error.legend(loc="upper left", bbox_to_anchor=(0, 0.92))
    hits.plot(at, 100 * of["top1_hit"], color=model, label="nearest frame")
    hits.plot(at, 100 * of["top5_hit"], color=t.cycle[4], ls="-.", label="among the nearest 5")
    hits.set_title("True place retrieved, %")
    hits.set_ylim(-3, 103)
    hits.legend(loc="lower left")
    pixels.plot(at, of["position_error"], color=model, label="imagined")
    pixels.plot(at, of["position_error_baseline"], color=baseline, ls="--", label="z stays as it was")
    pixels.set_title("Position error, px")
    for ax in (error, hits, pixels):
        ax.set_xlabel("imagined steps")
        ax.set_xlim(at[0], max(at[-1], 2))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for ax in (error, pixels):
        ax.set_ylim(bottom=0)
    return drawing
