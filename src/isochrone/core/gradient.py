"""The only three ways to bend a gradient: `stop` an activation, hold weights `frozen`, keep a `EMA` copy.

`.detach()` and `requires_grad_` appear nowhere else in the library; a house test enforces it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isochrone.core.types import Struct


def stop_gradient(x: Any, why: str) -> Any:
    """Detach an activation (a Tensor, or a Struct of them), and say why. The reason is for the reader; not optional.

    `x` may be a function without arguments: it is called without recording a graph, which is cheaper than dropping one.
    """
    if not why:
        raise ValueError("stop(x, why): say why no gradient may pass")
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, Struct):
        return x.map(lambda part: part.detach())
    with torch.no_grad():
        return x()


def frozen(module: nn.Module) -> Callable[..., Any]:
    """Call `module` with its weights held still; the gradient still passes to its inputs.

    Weights are read at call time, so the result follows the optimiser. Equals toggling `requires_grad`, but nothing is
    toggled.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        state = {name: p.detach() for name, p in module.named_parameters()}
        state.update(dict(module.named_buffers()))
        return functional_call(module, state, args, kwargs)

    return call


@contextmanager
def no_parameter_grad(module: nn.Module) -> Iterator[None]:
    """While planning: no parameter of `module` collects a gradient, inputs may. Restores every flag, also on error."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


class EMA(nn.Module):
    """An exponential moving average of `module`: it follows, and no gradient ever reaches it.

    `rate` is the share of the new weights taken at each `follow`. Call it from the model's `after_step`.
    """

    def __init__(self, module: nn.Module, rate: float) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"EMA: rate {rate} is outside (0, 1]")
        self.copy = copy.deepcopy(module).requires_grad_(False)
        self.rate = rate

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Move the copy by `rate` towards `module`; buffers are copied."""
        for slow, fast in zip(self.copy.parameters(), module.parameters(), strict=True):
            slow.lerp_(fast, self.rate)
        for slow, fast in zip(self.copy.buffers(), module.buffers(), strict=True):
            slow.copy_(fast)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.copy(*args, **kwargs)
