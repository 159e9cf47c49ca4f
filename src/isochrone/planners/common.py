"""What planners share: evaluating candidates, warm starts, and descent on actions by gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.types import ActionSpec, Plan, tree_map

BoundCost = Callable[[Any, Tensor], Tensor]
"""states[B,N,H], actions[B,N,H,A] -> cost[B,N], lower is better: a cost with its goal already bound."""

CHUNK = {"cpu": 512, "cuda": 65536}
"""Candidates imagined together: few enough for the cache of a CPU core, enough to use all of a GPU."""


# --- candidates -------------------------------------------------------------------------------------------------------


def batch_and_device(state: Any) -> tuple[int, torch.device]:
    """Number of rows B and device of a state, read from its first tensor. UserError where it holds none."""
    tensors: list[Tensor] = []
    tree_map(lambda x: tensors.append(x) or x, state)
    if not tensors:
        raise UserError(f"a planner needs a state that holds tensors; got {type(state).__name__} without any")
    return tensors[0].shape[0], tensors[0].device


def score(
    imagine: Imagine, state: Any, cost: BoundCost, actions: Float[Tensor, "B N H A"], chunk: int | None = None
) -> Float[Tensor, "B N"]:
    """Imagine every candidate from state[B] and return its cost.

    `chunk` limits the sequences imagined together over the whole batch, by splitting N; None takes what fits the
    device.
    """
    batch = actions.shape[0]
    limit = chunk or CHUNK.get(actions.device.type, CHUNK["cuda"])
    width = max(1, limit // max(batch, 1))
    return torch.cat([evaluate_cost(cost, imagine(state, part), part) for part in actions.split(width, 1)], 1)


def evaluate_cost(cost: BoundCost, states: Any, actions: Float[Tensor, "B N H A"]) -> Float[Tensor, "B N"]:
    """The cost of imagined states[B,N,H]. NaN becomes infinite, so that a diverged rollout is never chosen.

    UserError where the cost does not return (B, N).
    """
    value = cost(states, actions)
    if value.shape != actions.shape[:2]:
        raise UserError(f"a cost must return {tuple(actions.shape[:2])} (B, N); this one returned {tuple(value.shape)}")
    return value.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


# --- warm starts ------------------------------------------------------------------------------------------------------


def shift_plan(plan: Plan, by: int) -> Plan:
    """The previous plan without its first `by` actions; the end repeats the last action. Its trace is dropped.

    Repeating suits both cases: far from the goal the movement continues, after an arrival the no-op does.
    """
    if by < 0:
        raise UserError(f"shift_plan: by = {by}: a plan can only be shifted forward")
    horizon = plan.actions.shape[1]
    index = torch.arange(by, by + horizon, device=plan.actions.device).clamp(max=horizon - 1)
    return Plan(plan.actions[:, index], plan.cost)


def fit_warm_start(
    warm: Plan | None, action: ActionSpec, batch: int, horizon: int, device: torch.device
) -> Float[Tensor, "B H A"] | None:
    """The warm start for `horizon` steps: cut, or continued with its last action. None stays None.

    UserError where its rows or its actions are those of another problem.
    """
    if warm is None:
        return None
    rows, steps, size = warm.actions.shape
    if rows != batch or size != action.size or steps == 0:
        raise UserError(
            f"warm plan has shape {(rows, steps, size)}; this problem needs {batch} rows, at least one step, and "
            f"actions of size {action.size}: pass the last plan of the same agent, or warm=None"
        )
    index = torch.arange(horizon, device=warm.actions.device).clamp(max=steps - 1)
    return action.project(warm.actions[:, index]).to(device)


# --- gradients with respect to actions --------------------------------------------------------------------------------


@contextmanager
def differentiable(state: Any) -> Iterator[Any]:
    """The state as a constant that a backward pass may save, with gradients on, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield tree_map(torch.clone, state)


def first_restart(
    warm: Plan | None, action: ActionSpec, batch: int, horizon: int, device: torch.device
) -> Float[Tensor, "B H A"]:
    """The warm start for `horizon` steps, or zeros without one."""
    guess = fit_warm_start(warm, action, batch, horizon, device)
    return torch.zeros(batch, horizon, action.size, device=device) if guess is None else guess


def add_restarts(first: Float[Tensor, "B H A"], random: Float[Tensor, "R H A"]) -> Float[Tensor, "B R H A"]:
    """R starts for every row: its own first one, then R - 1 random ones that all rows share."""
    return torch.cat([first[:, None], random[1:].expand(len(first), -1, -1, -1)], 1)


def initial_logits(
    first: Float[Tensor, "B H A"], restarts: int, scale: float, rng: torch.Generator
) -> Float[Tensor, "B R H A"]:
    """Logits of the restarts: `scale` times the first one, then normal noise of spread `scale`."""
    noise = torch.randn(restarts, *first.shape[1:], generator=rng, device=rng.device).to(first.device)
    return add_restarts(first * scale, noise * scale)


def keep_better(best: Tensor, cost: Tensor, actions: Tensor, new_cost: Tensor) -> tuple[Tensor, Tensor]:
    """Per candidate, the cheaper of two sequences (B, N, H, A) and its cost (B, N)."""
    better = new_cost < cost  # (B, N)
    return torch.where(better[..., None, None], actions, best), torch.where(better, new_cost, cost)


class Descent:
    """Adam on a leaf of actions or logits (B, N, H, A). Every entry has its own moments, so candidates never mix.

    The gradient is taken with respect to the leaf alone: no parameter of the model accumulates one.
    """

    def __init__(self, start: Float[Tensor, "B N H A"], rate: float) -> None:
        self.leaf = torch.nn.Parameter(start.clone())
        self.adam = torch.optim.Adam([self.leaf], lr=rate)

    def step(self, cost: Float[Tensor, "B N"], project: Callable[[Tensor], Tensor] | None = None) -> None:
        """One step that lowers the cost, then `project` maps the leaf back into its set.

        Entries of the gradient that are not finite count as zero. UserError where the cost has no gradient.
        """
        if not cost.requires_grad:
            raise UserError(
                "no gradient reaches the actions from this cost: the model or cost rounds them or runs under no_grad; "
                "plan with cem instead"
            )
        usable = torch.where(cost.isfinite(), cost, 0.0)
        (gradient,) = torch.autograd.grad(usable.sum(), self.leaf)
        self.leaf.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
        self.adam.step()
        if project is not None:
            with torch.no_grad():
                self.leaf.copy_(project(self.leaf))
