"""Does it know that there are two futures, and which one is due? For environments such as the bouncer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from isochrone.core.protocols import Decodes, TwoFutures
from isochrone.evals.context import Context
from isochrone.evals.figure import figure, film_strip, has
from isochrone.evals.metric import Estimate, Question, family, metric
from isochrone.evals.model_access import numpy, numpy_generator
from isochrone.evals.stats import bootstrap_mean

FUTURES = 32
"""Futures sampled from each state."""
SHARP = 0.1
"""A future shows one side where its squared error to that side is at most this fraction of that between both."""
COLUMNS = 8
"""Frames of the film strip."""

TWO_FUTURES = Question(
    "multimodality",
    "Does it know that there are two futures?",
    "The ball goes left or right: at random, then half of the sampled futures should show each side; or as a lamp "
    "announced before, then all should show the announced side. A blur of both shows neither.",
    order=30,
)


@family("multimodality", TWO_FUTURES, needs=[Decodes], env=[TwoFutures])
@metric("multimodality.rarer_mode", "sampled futures that show the rarer side", "%")
@metric("multimodality.no_mode", "futures that show no side sharply", "%")
@metric("multimodality.correct_mode", "futures that show the true side", "%", baseline="a coin")
@metric("multimodality.error_end", "error at the longest horizon: 1 for a coin, 1/2 for a blur", "{:.4f}")
@metric("multimodality.most_likely_error_end", "error of the most likely future there (nothing sampled)", "{:.4f}")
@metric("multimodality.energy_score", "energy score halfway: 1/4 for a coin, 1/2 for a blur", "{:.3f}")
@metric("multimodality.left", "futures that show the left side", "%", detail=True)
@metric("multimodality.right", "futures that show the right side", "%", detail=True)
@torch.no_grad()
def multimodality(context: Context) -> dict[str, Any]:
    """Filter each environment up to its turn, then imagine `FUTURES` times and decode.

    left, right, no_mode: fractions of futures that show the left side, the right one, or no side sharply, halfway
    through the horizon (no_mode: a blurred mean). rarer_mode: the smaller of left and right (0.5 is perfect where the
    side is random). correct_mode: futures that show the true side (a matter of memory). error: squared pixel error of
    a future, in units of half the squared distance between both sides: 1 for a coin, one half for a blurred mean.
    most_likely_error: the same of the one future without sampling. energy_score: E|x - y| - E|x - x'| / 2 over whole
    frames, in units of that distance, lower is better (Gneiting & Raftery 2007): 1/4 for a coin, 1/2 for a blur.
    """
    model, env, rng, device = context.model, context.env, context.rng, context.device
    turn = env.turn
    horizon = min(context.config.horizon, env.episode_length - turn)
    state, side = _filtered(model, env, turn, rng, device)
    idle = model.action.idle((env.num_envs, FUTURES, horizon), device)
    # one environment at a time, so that its noise does not depend on the number of environments
    each = [model.imagine(state[i : i + 1], idle[i : i + 1], rng) for i in range(env.num_envs)]
    imagined = type(state).cat(each)  # State[B, N, H]
    futures = torch.stack([model.decode(imagined[:, n]).clamp(0, 1) for n in range(FUTURES)], 1)
    sides = [env.frames(torch.full_like(side, s))[:, turn + 1 : turn + 1 + horizon].to(device) / 255 for s in (-1, 1)]
    gap = _square(sides[0], sides[1])  # (B, H)
    errors = torch.stack([_square(futures, frames[:, None]) for frames in sides], -1)  # (B, N, H, 2)
    middle = horizon // 2
    sharp = errors[:, :, middle] <= SHARP * gap[:, None, middle, None]  # (B, N, 2)
    left, right = (numpy(sharp[..., i].float()).mean(1) for i in (0, 1))  # (B,)
    truth = (side > 0).long().to(device)
    true = errors.gather(-1, truth[:, None, None, None].expand(*errors.shape[:3], 1))[..., 0]  # (B, N, H)
    correct = numpy(sharp.gather(-1, truth[:, None, None].expand(*sharp.shape[:2], 1))[..., 0].float()).mean(1)
    likely = model.decode(model.imagine(state, idle[:, :1])[:, 0]).clamp(0, 1)  # (B, H, ...)
    target = torch.where((truth > 0)[:, None, None, None, None], sides[1], sides[0])
    likely_error = _square(likely, target) / (gap / 2)  # (B, H)
    out: dict[str, Any] = {
        "horizon": np.arange(1, horizon + 1),
        "error": numpy((true / (gap[:, None] / 2)).mean((0, 1))),
        "error_end": float((true / (gap[:, None] / 2))[..., -1].mean()),
        "most_likely_error_end": float(likely_error[:, -1].mean()),
        "left": float(left.mean()),
        "right": float(right.mean()),
        "no_mode": float(1 - left.mean() - right.mean()),
        "rarer_mode": float(min(left.mean(), right.mean())),
        "correct_mode": Estimate(correct.mean(), bootstrap_mean(correct, numpy_generator(rng)), 0.5),
        "energy_score": _energy_score(futures[:, :, middle], true[:, :, middle], gap[:, middle]),
    }
    out |= {"film_left": numpy(sides[0][0]), "film_right": numpy(sides[1][0])}
    return out | {f"film_{i}": numpy(futures[0, i]) for i in range(min(4, FUTURES))}


def _filtered(model: Any, env: Any, turn: int, rng: torch.Generator, device: torch.device) -> tuple[Any, Tensor]:
    """The model's state in every environment after its row `turn`, and the side that the ball will take."""
    step = env.reset(int(torch.randint(2**31, (), generator=rng, device=rng.device)))
    side = env.side()
    action = model.action.idle((env.num_envs,), device)
    sampling = {"rng": rng} if model.is_stochastic else {}  # as in training: a mode is not a fair sample
    state = model.start(env.num_envs)
    for row in range(turn + 1):
        step = env.step(model.action.idle((env.num_envs,))) if row else step
        state = model.update(state, action, {k: v.to(device) for k, v in step.obs.items()}, **sampling)
    return state, side


def _square(a: Float[Tensor, "*B C Y X"], b: Float[Tensor, "*D C Y X"]) -> Float[Tensor, "*E"]:
    """Squared difference summed over a frame."""
    return (a - b).square().flatten(-3).sum(-1)


def _energy_score(futures: Float[Tensor, "B N C Y X"], true: Float[Tensor, "B N"], gap: Float[Tensor, "B"]) -> float:
    """Mean energy score, in units of the distance between both sides; pairs of different futures only."""
    n = futures.shape[1]
    flat = futures.flatten(2)
    spread = torch.stack([torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum() for x in flat])  # (B,)
    spread = spread / (n * max(n - 1, 1))
    return float(((true.sqrt().mean(1) - spread / 2) / gap.sqrt()).mean())


@figure("multimodality", TWO_FUTURES, order=30)
def both_sides(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Both possible futures above the sampled ones, from `multimodality.film_*`."""
    names = {"left": "multimodality.film_left", "right": "multimodality.film_right"}
    if not has(arrays, *names.values(), "multimodality.film_0"):
        return None
    sampled = sorted(k for k in arrays if k.startswith("multimodality.film_") and k[-1].isdigit())
    names |= {f"sample {i + 1}": key for i, key in enumerate(sampled)}
    horizon = len(arrays["multimodality.film_left"])
    steps = np.unique(np.linspace(1, horizon, COLUMNS).round().astype(int))
    strips = {label: np.asarray(arrays[key])[steps - 1].clip(0, 1) for label, key in names.items()}
    return film_strip(strips, steps.tolist(), theme)
