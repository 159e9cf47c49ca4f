"""Gradients of a cost with respect to actions only: what the gradient planners share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import tree_map


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
