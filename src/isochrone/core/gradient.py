"""The four gradient-control tools: stop_gradient (and without_grad), frozen, no_parameter_grad, EMA.

| tool | value | gradient to inputs | gradient to parameters |
|---|---|---|---|
| `stop_gradient(x, why)` | x | none | none |
| `frozen(module)(x)` | module(x) | as usual | none |
| `no_parameter_grad(module)`, a context | unchanged | as usual | none, for everything computed inside |
| `EMA(module, tau)(x)` | that of the average | as usual | none, ever |

`without_grad(fn, why)` is `stop_gradient(fn(), why)` without recording the graph of `fn` first. Nothing else in the
library detaches a tensor or changes `requires_grad`; tests/rules/test_detach.py enforces it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isochrone.core.types import Struct

T = TypeVar("T")


def stop_gradient(x: T, why: str) -> T:
    """A Tensor, or a Struct of tensors, of the same values without its gradient.

    `why` is for the reader and must not be empty. Raises ValueError without a reason, TypeError for anything else.
    """
    if not why:
        raise ValueError("stop_gradient(x, why): say why no gradient may pass")
    if isinstance(x, Tensor):
        return cast(T, x.detach())
    if isinstance(x, Struct):
        return x.map(lambda part: part.detach())
    raise TypeError(f"stop_gradient takes a Tensor or a Struct, not {type(x).__name__}; for a function: without_grad")


def without_grad(fn: Callable[[], T], why: str) -> T:
    """fn(), computed without recording a graph: cheaper than recording one and stopping its gradient.

    `why` is for the reader and must not be empty (ValueError).
    """
    if not why:
        raise ValueError("without_grad(fn, why): say why no gradient may pass")
    with torch.no_grad():
        return fn()


class _Method(nn.Module):
    """`module.method` as the forward of a module, for `functional_call`."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.method == "forward":
            return self.module(*args, **kwargs)  # with the module's hooks
        return getattr(self.module, self.method)(*args, **kwargs)


def frozen(module: nn.Module, method: str = "forward") -> Callable[..., Any]:
    """A function that calls `module.method` with constant weights: gradients reach its inputs, never its parameters.

    `frozen(model.metric)(a, b)`; `frozen(model, "step")(state, action)`. Weights are read at each call, so the result
    follows the optimiser. Raises AttributeError here, not at the call, if there is no such method.
    """
    getattr(module, method)
    wrapped = _Method(module, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        constants = {f"module.{name}": p.detach() for name, p in module.named_parameters()}
        constants.update((f"module.{name}", buffer) for name, buffer in module.named_buffers())
        return functional_call(wrapped, constants, args, kwargs)

    return call


@contextmanager
def no_parameter_grad(module: nn.Module) -> Generator[None]:
    """Inside, no parameter of `module` collects a gradient, while inputs may (planning by gradient, imagined rollouts).

    Every flag is restored afterwards, also after an error.
    """
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


class EMA(nn.Module):
    """Exponential moving average of a module's weights: `.module` is the averaged copy, saved like any submodule.

    `update` moves it towards the source by the fraction `tau` (0 < tau <= 1); call it from the model's `after_step`.
    Gradients pass through to its inputs and never reach its parameters. Raises ValueError for another `tau`.
    """

    def __init__(self, module: nn.Module, tau: float) -> None:
        super().__init__()
        if not 0 < tau <= 1:
            raise ValueError(f"EMA: tau = {tau} is outside (0, 1]")
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.tau = tau

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """average += tau (module - average) for each parameter; buffers are copied."""
        for average, source in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(source, self.tau)
        for average, source in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)
