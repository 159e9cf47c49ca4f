"""Open-loop rollouts from inside a batch: K imagined steps from S starts in each window, beside what really came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from isochrone.core.tensors import rng_kwargs
from isochrone.core.types import Struct


@dataclass(frozen=True)
class OpenLoop(Struct):
    """K imagined steps from S starts in each window; k = 1..K lies at index k-1."""

    start: Int64[Tensor, "*B S"]
    valid: Bool[Tensor, "*B S K"]  # no episode ends on the way
    z: Float[Tensor, "*B S K Z"]
    h: Float[Tensor, "*B S K D"]

    def target(self, x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B S K ..."]:
        """What was really there: x at start + k."""
        k = torch.arange(1, self.valid.shape[-1] + 1, device=x.device)
        return gather_rows(x, self.start[..., None] + k)

    def origin(self, x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B S ..."]:
        """x at the start itself."""
        return gather_rows(x, self.start)


def gather_rows(x: Shaped[Tensor, "B T ..."], at: Int64[Tensor, "B ..."]) -> Shaped[Tensor, "B ..."]:
    """x[b, at[b, ...]]: rows picked from each window. x (B, T, ...), at (B, S) or (B, S, K) -> (*at, ...)."""
    rows = torch.arange(x.shape[0], device=x.device).view(-1, *[1] * (at.dim() - 1))
    return x[rows, at]


def neighbours(length: int, count: int, rng: torch.Generator | None, device: torch.device) -> Int64[Tensor, "R"]:
    """`count` neighbouring rows out of `length`, the first drawn by `rng`; every row where count is 0 or too large."""
    rows = torch.arange(min(count or length, length), device=device)
    if rng is None:
        return rows
    return rows + torch.randint(length - len(rows) + 1, (), **rng_kwargs(rng)).to(
        device
    )  # not an int: a GPU need not wait
