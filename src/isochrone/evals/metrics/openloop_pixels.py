"""What does it foresee? Frames and rewards of imagined futures against the true ones; needs no ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.protocols import Decodes, PredictsReward
from isochrone.core.types import Batch
from isochrone.evals.context import Context, recorded
from isochrone.evals.figure import THEMES, figure, film_strip, has
from isochrone.evals.metric import Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import filtered, numpy, numpy_generator
from isochrone.evals.probes import r2
from isochrone.evals.stats import horizon_curve, valid_mean

BURN_IN = 5
"""Rows filtered before the first imagined step."""
FUTURES = 8
"""Futures sampled from each start."""
FILM = 10
"""Frames of the film strip."""
LAST = "the last frame filtered"

FORESEE = Question(
    "foresee",
    "What does it foresee?",
    "The model filters five frames, then imagines without any while the recorded actions are played: the most likely "
    "future, and some sampled ones. A good model stays below the dashed line and predicts the reward.",
    order=20,
)


@family("openloop_pixels", FORESEE, needs=[recorded, Decodes, PredictsReward], draw_order=5, place=0)
@metric(
    "openloop_pixels.error_1",
    "pixel error after 1 imagined step, in units of the frames' variance",
    "{:.3f}",
    baseline=LAST,
)
@metric("openloop_pixels.error_5", "… after 5 steps", "{:.3f}", baseline=LAST)
@metric("openloop_pixels.error_end", "… at the longest horizon", "{:.3f}", baseline=LAST)
@metric("openloop_pixels.reconstruction_error", "pixel error of the reconstruction, in the same units", "{:.3f}")
@metric("openloop_pixels.reward_r2", "predicted reward over all horizons, R²", "{:.3f}", baseline="the mean reward")
@metric("openloop_pixels.sampling_share_2", "variance of h due to sampling after 2 imagined steps", "{:.4f}")
@metric("openloop_pixels.sampling_share_end", "… at the longest horizon", "{:.4f}")
@torch.no_grad()
def openloop_pixels(context: Context) -> dict[str, Any]:
    """Open-loop error in pixels and in reward at every horizon.

    Pixel errors are squared differences summed over a frame (0..1), averaged over the sampled futures and divided by
    the variance of the frames: 1 is as good as knowing the mean frame. reconstruction_error: the same of the
    posterior's reconstructions. Rewards: fraction of variance explained by the mean over futures. sampling_share:
    variance of h over the futures of one start, as a fraction of its variance over the recording.
    """
    model, rng = context.model, context.rng
    batch = context.rows.to(context.device)
    length = batch.shape[1]
    horizon = min(context.config.horizon, length - BURN_IN - 1)
    if horizon < 1:
        raise UserError(
            f"openloop_pixels needs recordings of {BURN_IN + 2} rows; this one has {length}: raise eval.length"
        )
    starts = list(range(BURN_IN, length - horizon, max(1, horizon // 2)))
    states = filtered(model, batch, model.action)
    frames = batch.obs["image"].float() / 255 if "image" in batch.obs else None
    connected = batch.connected(1)
    errors, unchanged, rewards, valid, spread = [], [], [], [], []
    for t in starts:
        actions = batch.action[:, None, t : t + horizon].expand(-1, FUTURES, -1, -1)
        imagined = model.imagine(states[:, t], actions, rng, shared_noise=True)  # State[B, N, H]
        rewards.append(model.rewards(imagined).mean(1))  # (B, H)
        valid.append(connected[:, t : t + horizon].cumprod(1).bool())
        if imagined.h.shape[-1]:
            spread.append(imagined.h.var(1).sum(-1))  # (B, H)
        if frames is not None:
            errors.append(_pixel_error(model, imagined, frames[:, t + 1 : t + 1 + horizon]))
            unchanged.append((frames[:, t, None] - frames[:, t + 1 : t + 1 + horizon]).square().flatten(2).sum(-1))
    at = torch.tensor(starts)[:, None] + torch.arange(1, horizon + 1)  # (S, H)
    valids = numpy(torch.stack(valid, 1)) > 0  # (B, S, H)
    out: dict[str, Any] = {"horizon": np.arange(1, horizon + 1)}
    out |= _reward(numpy(torch.stack(rewards, 1)), numpy(batch.reward[:, at]), valids)
    out |= _sampling_share(states, spread, valids)
    if frames is not None:
        scale = float((frames - frames.mean((0, 1))).square().flatten(2).sum(-1).mean())
        if not scale > 1e-6:  # less than half a grey level of one pixel
            same = Refused("every recorded frame is the same: there is nothing to predict")
            return out | dict.fromkeys(("error_1", "error_5", "error_end", "reconstruction_error"), same)
        error, baseline = (numpy(torch.stack(x, 1)) / scale for x in (errors, unchanged))
        out |= _pixels(error, baseline, valids, numpy_generator(rng))
        out |= _film(model, batch, states, frames, horizon, rng)
        out["reconstruction_error"] = _reconstruction(model, states[:, BURN_IN:], frames[:, BURN_IN:]) / scale
    return out


def _pixel_error(model: Any, imagined: Any, true: Float[Tensor, "B H C Y X"]) -> Float[Tensor, "B H"]:
    """Squared error, averaged over the futures; one future at a time, because frames are large."""
    total = torch.zeros(true.shape[:2], device=true.device)
    for n in range(FUTURES):
        predicted = model.decode(imagined[:, n]).clamp(0, 1)
        total += (predicted - true).square().flatten(2).sum(-1) / FUTURES
    return total


def _reconstruction(model: Any, states: Any, true: Float[Tensor, "B T C Y X"]) -> float:
    """Squared error of the frames decoded from the filtered states; one row at a time."""
    rows = [(model.decode(states[:, t]).clamp(0, 1) - true[:, t]).square() for t in range(true.shape[1])]
    return float(torch.stack([row.flatten(1).sum(-1).mean() for row in rows]).mean())


def _sampling_share(states: Any, spread: list[Tensor], valid: Bool[np.ndarray, "B S H"]) -> dict[str, Any]:
    """Means over the steps before an episode's end; nothing after one step, where h depends on no sampled z yet."""
    if not spread or valid.shape[-1] < 2:
        return {}
    total = float(states.h.flatten(0, 1).var(0).sum())
    if not total > 1e-12 * max(1.0, float(states.h.square().max())):
        return dict.fromkeys(("sampling_share_2", "sampling_share_end"), Refused("h is the same on every row"))
    share = numpy(torch.stack(spread, 1)) / total  # (B, S, H)
    steps = {"2": 1, "end": valid.shape[-1] - 1}
    return {
        f"sampling_share_{name}": float(share[..., k][valid[..., k]].mean())
        for name, k in steps.items()
        if valid[..., k].any()
    }


def _pixels(
    error: Float[np.ndarray, "B S H"],
    baseline: Float[np.ndarray, "B S H"],
    valid: Bool[np.ndarray, "B S H"],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Pixel error at every horizon."""
    mean, low, high = horizon_curve(error, valid, rng, average="episodes")
    reference = [valid_mean(baseline[..., k], valid[..., k]) for k in range(len(mean))]
    out: dict[str, Any] = {
        "error": mean,
        "error_low": low,
        "error_high": high,
        "error_baseline": np.array(reference),
    }
    for name, k in (("1", 0), ("5", 4), ("end", -1)):
        if k < len(mean):
            out[f"error_{name}"] = Estimate(mean[k], (low[k], high[k]), reference[k])
    return out


def _reward(
    predicted: Float[np.ndarray, "B S H"], true: Float[np.ndarray, "B S H"], valid: Bool[np.ndarray, "B S H"]
) -> dict[str, Any]:
    """R^2 of the reward at each horizon and over all; nothing where it never varies."""
    overall = r2(true[valid], predicted[valid]) if valid.any() else float("nan")
    if np.isnan(overall):
        return {}
    curve = [
        r2(true[..., k][v], predicted[..., k][v]) if (v := valid[..., k]).any() else np.nan
        for k in range(valid.shape[-1])
    ]
    return {"reward": np.array(curve), "reward_r2": Estimate(overall, baseline=0.0)}


def _film(model: Any, batch: Batch, states: Any, frames: Tensor, horizon: int, rng: torch.Generator) -> dict[str, Any]:
    """The episode that changes most: the truth, reconstructions, the most likely future and two sampled ones."""
    span = slice(BURN_IN + 1, BURN_IN + 1 + horizon)
    unbroken = batch.connected(1)[:, BURN_IN : BURN_IN + horizon].all(-1)
    change = frames[:, span].diff(dim=1).abs().flatten(1).sum(-1)
    row = int((change + 1e9 * unbroken).argmax())
    actions = batch.action[row : row + 1, None, BURN_IN : BURN_IN + horizon]
    film_steps = torch.from_numpy(np.unique(np.linspace(1, horizon, min(FILM, horizon)).round().astype(int)))
    start = states[row : row + 1, BURN_IN]
    likely = model.imagine(start, actions)[0, 0]
    sampled = model.imagine(start, actions.expand(1, 2, -1, -1), rng, shared_noise=True)[0]

    def decoded(state: Any) -> np.ndarray:
        return model.decode(state).clamp(0, 1).cpu().numpy()

    return {
        "film_step": film_steps.numpy(),
        "film_truth": frames[row, BURN_IN + film_steps].cpu().numpy(),  # (K, C, Y, X), 0..1
        "film_reconstruction": decoded(states[row][BURN_IN + film_steps]),
        "film_likely": decoded(likely[film_steps - 1]),
        "film_sample_1": decoded(sampled[0][film_steps - 1]),
        "film_sample_2": decoded(sampled[1][film_steps - 1]),
    }


# --- figures --------------------------------------------------------------------------------------------------------

STRIPS = {
    "truth": "truth",
    "reconstruction": "reconstruction",
    "likely": "most likely",
    "sample_1": "sample 1",
    "sample_2": "sample 2",
}


@figure("futures", FORESEE, order=20)
def futures(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """True, reconstructed and imagined frames, from `openloop_pixels.film_*`."""
    if not has(arrays, *(f"openloop_pixels.film_{kind}" for kind in STRIPS)):
        return None
    strips = {label: np.asarray(arrays[f"openloop_pixels.film_{kind}"]).clip(0, 1) for kind, label in STRIPS.items()}
    return film_strip(strips, np.asarray(arrays["openloop_pixels.film_step"]).tolist(), theme)


@figure("openloop_pixels", FORESEE, order=21)
def openloop_curves(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Pixel error and, where rewards vary, R² of the reward at every horizon."""
    if not has(arrays, "openloop_pixels.horizon", "openloop_pixels.error"):
        return None
    of = {k.removeprefix("openloop_pixels."): np.asarray(v) for k, v in arrays.items() if "openloop_pixels" in k}
    at, t, rewarded = of["horizon"], THEMES[theme], "reward" in of
    drawing = Figure(figsize=(10.6, 3.5))
    axes = np.atleast_1d(drawing.subplots(1, 2 if rewarded else 1))
    pixel = axes[0]
    pixel.fill_between(at, of["error_low"], of["error_high"], color=t.cycle[0], alpha=0.2, lw=0)
    pixel.plot(at, of["error"], color=t.cycle[0], label="sampled futures")
    pixel.plot(at, of["error_baseline"], color=t.cycle[1], ls="--", label=LAST)
    pixel.axhline(1, color=t.quiet, lw=1, ls=":")
    pixel.annotate(
        "the mean frame", (at[-1], 1), (0, 3), textcoords="offset points", ha="right", fontsize=8.5, color=t.quiet
    )
    pixel.set_title("Pixel error, in units of the frames' variance")
    pixel.set_ylim(0, 1.25 * pixel.get_ylim()[1])  # room for the legend above both curves
    pixel.legend(loc="upper left", ncols=2)
    if rewarded:
        axes[1].plot(at, of["reward"], color=t.cycle[2])
        axes[1].axhline(0, color=t.quiet, lw=1, ls=":")
        axes[1].set_title("Predicted reward, R²")
        axes[1].set_ylim(-0.5, 1.03)
    for ax in axes:
        ax.set_xlabel("imagined steps")
        ax.set_xlim(at[0], max(at[-1], 2))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return drawing
