"""Rows of windows, and K-step open-loop rollouts from inside them, with the rows that they predict as targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from isochrone.core.tensors import gather_rows, rng_kwargs
from isochrone.core.types import Struct


@dataclass(frozen=True)
class OpenLoop(Struct):
    """K imagined steps from S start rows in each window; step k = 1..K is at index k-1."""

    start: Int64[Tensor, "*B S"]
    valid: Bool[Tensor, "*B S K"]  # no episode ends between the start and this row
    z: Float[Tensor, "*B S K Z"]
    h: Float[Tensor, "*B S K D"]

    def target(self, x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B S K ..."]:
        """x at the predicted rows start + k."""
        k = torch.arange(1, self.valid.shape[-1] + 1, device=x.device)
        return gather_rows(x, self.start[..., None] + k)

    def origin(self, x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B S ..."]:
        """x at the start rows."""
        return gather_rows(x, self.start)


def contiguous_rows(length: int, count: int, rng: torch.Generator | None, device: torch.device) -> Int64[Tensor, "R"]:
    """`count` contiguous rows out of `length`, at a random offset (without rng: the first ones).

    Every row if `count` is 0 or larger than `length`.
    """
    rows = torch.arange(min(count or length, length), device=device)
    if rng is None:
        return rows
    offset = torch.randint(length - len(rows) + 1, (), **rng_kwargs(rng))  # a tensor: a GPU need not wait for it
    return rows + offset.to(device)
