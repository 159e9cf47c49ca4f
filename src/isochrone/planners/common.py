"""Price action sequences: imagine, then cost. Used by every planner, so that all of them count and fail alike.

Warm start: yesterday's plan, moved on by the actions already taken.

The agent shifts (it knows how many actions it took); a planner only fits the guess it is given to its own horizon.

Gradients of a cost with respect to actions only: what the gradient planners share.
"""

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

Bound = Callable[[Any, Tensor], Tensor]
"""states[B,N,H], actions[B,N,H,A] -> cost[B,N]: a cost whose goal is already bound."""


# Sequences imagined at once: few enough for the cache of a core, many enough to fill an accelerator.
CHUNK = {"cpu": 512, "cuda": 65536}


def extent(state: Any) -> tuple[int, torch.device]:
    """Number of rows B and device of a state, read from its first tensor."""
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) or x, state)
    if not found:
        raise UserError(f"a planner needs a state that holds tensors; got {type(state).__name__} without any")
    return found[0].shape[0], found[0].device


def score(
    imagine: Imagine, state: Any, cost: Bound, actions: Float[Tensor, "B N H A"], chunk: int | None = None
) -> Float[Tensor, "B N"]:
    """Cost of every candidate. Not-a-number counts as infinite, so that a broken rollout never wins.

    `chunk` limits the sequences imagined at once over the whole batch, by splitting N; None takes what fits the device.
    """
    batch = actions.shape[0]
    limit = chunk or CHUNK.get(actions.device.type, CHUNK["cuda"])
    width = max(1, limit // max(batch, 1))
    return torch.cat([priced(cost, imagine(state, part), part) for part in actions.split(width, 1)], 1)


def priced(cost: Bound, states: Any, actions: Float[Tensor, "B N H A"]) -> Float[Tensor, "B N"]:
    """The cost of states already imagined; its shape is checked and not-a-number becomes infinite."""
    price = cost(states, actions)
    if price.shape != actions.shape[:2]:
        raise UserError(f"a cost must return {tuple(actions.shape[:2])} (B, N); this one returned {tuple(price.shape)}")
    return price.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values (B, N, ...), index (B, K) -> (B, K, ...): each row picks its own entries."""
    return values[torch.arange(len(index), device=values.device)[:, None], index]


def shifted(plan: Plan, by: int) -> Plan:
    """The plan as seen `by` actions later; the freed tail repeats the last action. Its trace is dropped.

    Repeating serves both cases: on the way to a far goal the tail goes on, after an arrival it stays idle.
    """
    if by < 0:
        raise UserError(f"shifted: by = {by}: a plan can only be moved forward")
    horizon = plan.actions.shape[1]
    index = torch.arange(by, by + horizon, device=plan.actions.device).clamp(max=horizon - 1)
    return Plan(plan.actions[:, index], plan.cost)


def fitted(
    warm: Plan | None, action: ActionSpec, batch: int, horizon: int, device: torch.device
) -> Float[Tensor, "B H A"] | None:
    """The guess for the next `horizon` steps: cut, or continued with its last action. None stays None."""
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


@contextmanager
def differentiable(state: Any) -> Iterator[Any]:
    """The state as a constant that a backward pass may save, with gradients on, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield tree_map(torch.clone, state)


def best_of(best: Tensor, price: Tensor, actions: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
    """Per candidate, the cheaper of two sequences (B, N, H, A) and its price (B, N)."""
    better = prices < price  # (B, N)
    return torch.where(better[..., None, None], actions, best), torch.where(better, prices, price)


class Descent:
    """Adam on a leaf of actions or logits (B, N, H, A). Every entry has its own moments, so candidates never mix.

    The gradient is taken with respect to the leaf alone: no parameter of the model collects anything.
    """

    def __init__(self, start: Tensor, rate: float) -> None:
        self.leaf = torch.nn.Parameter(start.clone())
        self.adam = torch.optim.Adam([self.leaf], lr=rate)

    def step(self, prices: Tensor, legal: Callable[[Tensor], Tensor] | None = None) -> None:
        """One step down the prices (B, N), then `legal` maps the leaf back into its set. A broken gradient is zero."""
        if not prices.requires_grad:
            raise UserError(
                "no gradient reaches the actions from this cost: the model or cost rounds them or runs under no_grad; "
                "plan with cem instead"
            )
        usable = torch.where(prices.isfinite(), prices, 0.0)
        (slope,) = torch.autograd.grad(usable.sum(), self.leaf)
        self.leaf.grad = slope.nan_to_num(0.0, 0.0, 0.0)
        self.adam.step()
        if legal is not None:
            with torch.no_grad():
                self.leaf.copy_(legal(self.leaf))
