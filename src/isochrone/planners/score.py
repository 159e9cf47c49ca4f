"""Price action sequences: imagine, then cost. Used by every planner, so that all of them count and fail alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.types import tree_map

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
