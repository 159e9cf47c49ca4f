"""Does a model know that there are two futures, and does it remember which one is due? For worlds such as the bouncer.

The environment must be one of `core.protocols.TwoFutures`. For measuring only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.evals.model_access import device_of, generator, numpy
from isochrone.evals.stats import bootstrap_mean

FUTURES = 32
"""Futures drawn from each belief."""
SHARP = 0.1
"""A future shows one side where its squared error to that side is at most this share of that between both."""


@torch.no_grad()
def forks(model: Any, env: Any, rng: torch.Generator, horizon: int = 12) -> dict[str, Any]:
    """{'forks.NAME': number or array}: filter each world up to its turn, then imagine `FUTURES` times and decode.

    left, right, neither: shares of futures that show the left side, the right one, or no side sharply, halfway through
    the horizon (`neither` is the blurred mean). mode: how even the two sides are, the smaller share of both (0.5 is
    perfect where chance decides). due: share of futures that show the side that really came (a matter of memory).
    error: squared pixel error of a future against what came, in units of half the squared distance between both sides:
    a coin pays 1, a blurred mean one half. likeliest: the same of the one future that draws nothing. energy:
    E|x - y| - E|x - x'| / 2 over whole frames, in units of that distance, lower is better (Gneiting & Raftery 2007): a
    coin pays 1/4, a blurred mean 1/2.
    """
    device = device_of(model)
    turn = env.turn
    horizon = min(horizon, env.episode_length - turn)
    state, side = _filtered(model, env, turn, rng)
    idle = model.action.idle((env.num_envs, FUTURES, horizon), device)
    # one environment at a time, so that its noise does not depend on the number of environments
    each = [model.imagine(state[i : i + 1], idle[i : i + 1], rng) for i in range(env.num_envs)]
    dreamt = type(state).cat(each)  # State[B, N, H]
    shown = torch.stack([model.decode(dreamt[:, n]).clamp(0, 1) for n in range(FUTURES)], 1)  # (B, N, H, ...)
    both = [env.frames(torch.full_like(side, s))[:, turn + 1 : turn + 1 + horizon].to(device) / 255 for s in (-1, 1)]
    gap = _square(both[0], both[1])  # (B, H)
    errors = torch.stack([_square(shown, b[:, None]) for b in both], -1)  # (B, N, H, 2)
    middle = horizon // 2
    sharp = errors[:, :, middle] <= SHARP * gap[:, None, middle, None]  # (B, N, 2)
    left, right = (numpy(sharp[..., i].float()).mean(1) for i in (0, 1))  # (B,)
    came = (side > 0).long().to(device)
    true = errors.gather(-1, came[:, None, None, None].expand(*errors.shape[:3], 1))[..., 0]  # (B, N, H)
    due = numpy(sharp.gather(-1, came[:, None, None].expand(*sharp.shape[:2], 1))[..., 0].float()).mean(1)
    likely = model.decode(model.imagine(state, idle[:, :1])[:, 0]).clamp(0, 1)  # (B, H, ...)
    point = _square(likely, torch.where((came > 0)[:, None, None, None, None], both[1], both[0])) / (gap / 2)  # (B, H)
    draw = generator(rng)
    out: dict[str, Any] = {
        "horizon": np.arange(1, horizon + 1),
        "error": numpy((true / (gap[:, None] / 2)).mean((0, 1))),
        "error_end": float((true / (gap[:, None] / 2))[..., -1].mean()),
        "likeliest_end": float(point[:, -1].mean()),
        "left": float(left.mean()),
        "right": float(right.mean()),
        "neither": float(1 - left.mean() - right.mean()),
        "mode": float(min(left.mean(), right.mean())),
        "due": float(due.mean()),
        "due.interval": bootstrap_mean(due, draw),
        "due.floor": 0.5,
        "energy": _energy(shown[:, :, middle], true[:, :, middle], gap[:, middle]),
    }
    out |= {"film_left": numpy(both[0][0]), "film_right": numpy(both[1][0])}
    out |= {f"film_{i}": numpy(shown[0, i]) for i in range(min(4, FUTURES))}
    return {f"forks.{k}": v for k, v in out.items()}


def _filtered(model: Any, env: Any, turn: int, rng: torch.Generator) -> tuple[Any, Tensor]:
    """The belief of every world after its row `turn`, and the side that is due."""
    device = device_of(model)
    step = env.reset(int(torch.randint(2**31, (), generator=rng, device=rng.device)))
    side = env.side()
    action = model.action.idle((env.num_envs,), device)
    drawn = {"rng": rng} if model.is_stochastic else {}  # as in training: a mode is no fair sample
    state = model.start(env.num_envs)
    for row in range(turn + 1):
        step = env.step(model.action.idle((env.num_envs,))) if row else step
        state = model.update(state, action, {k: v.to(device) for k, v in step.obs.items()}, **drawn)
    return state, side


def _square(a: Float[Tensor, "*B C Y X"], b: Float[Tensor, "*D C Y X"]) -> Float[Tensor, "*E"]:
    """Squared difference summed over a frame."""
    return (a - b).square().flatten(-3).sum(-1)


def _energy(shown: Float[Tensor, "B N C Y X"], true: Float[Tensor, "B N"], gap: Float[Tensor, "B"]) -> float:
    """Mean energy score, in units of the distance between both sides; pairs of different futures only."""
    n = shown.shape[1]
    flat = shown.flatten(2)
    between = torch.stack([torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum() for x in flat])  # (B,)
    spread = between / (n * max(n - 1, 1))
    return float(((true.sqrt().mean(1) - spread / 2) / gap.sqrt()).mean())
