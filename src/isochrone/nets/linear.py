"""A linear layer for recurrences whose weight gradient is one product over all time steps, not one per step.

Backpropagation through T steps computes g_t^T x_t for each step and adds it to the sum: with few rows per step that is
T times the traffic of a whole weight matrix. Inside `defer_weight_grad(...)` each step only stores x_t and g_t, and
after all steps the weight receives [g_1 .. g_T]^T [x_1 .. x_T] at once. The values are the same up to the order of
summation. What it gains on a CPU is measured by bench/custom_autograd.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class _Stored:
    """Inputs and output gradients that one backward pass has brought to one layer so far."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.task = -1

    def add(self, x: Tensor, grad: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task != self.task:  # an earlier backward pass did not need this weight and left its tensors here
            self.take()
            self.task = task
        self.inputs.append(x)
        self.grads.append(grad)

    def take(self) -> tuple[list[Tensor], list[Tensor]]:
        stored = self.inputs, self.grads
        self.inputs, self.grads = [], []
        return stored


class _SharedWeight(torch.autograd.Function):
    """The weight, before the loop: its backward runs once, after that of every step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, stored: _Stored) -> Tensor:
        ctx.stored = stored
        ctx.set_materialize_grads(False)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        inputs, outs = ctx.stored.take()
        return (torch.cat(outs).T @ torch.cat(inputs) if outs else None), None


class _Step(torch.autograd.Function):
    """addend + x W^T; its backward leaves the weight's share in `stored`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, addend: Tensor | None, stored: _Stored) -> Tensor:
        ctx.stored, ctx.is_bias = stored, addend is not None and addend.dim() == 1
        ctx.save_for_backward(x, weight)
        return x @ weight.T if addend is None else torch.addmm(addend, x, weight.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        ctx.stored.add(x, grad)
        to_input = grad @ weight if ctx.needs_input_grad[0] else None
        to_addend = (grad.sum(0) if ctx.is_bias else grad) if ctx.needs_input_grad[2] else None
        return to_input, None, to_addend, None


class DeferredGradLinear(nn.Linear):
    """`nn.Linear` that can take part in `defer_weight_grad`, and adds `addend` in the same operation."""

    _deferred: tuple[Tensor, _Stored] | None = None

    def forward(self, input: Float[Tensor, "*B I"], addend: Tensor | None = None) -> Float[Tensor, "*B O"]:
        """input W^T + bias; or + `addend` (*B, O) in a layer without bias (ValueError with both)."""
        if addend is not None and self.bias is not None:
            raise ValueError("a layer with a bias takes no addend: use one of the two")
        addend = self.bias if addend is None else addend
        if not torch.compiler.is_compiling() and self._deferred is not None and input.dim() == 2:
            weight, stored = self._deferred
            return _Step.apply(input, weight, addend, stored)  # type: ignore[return-value]
        if addend is None or addend is self.bias:
            return F.linear(input, self.weight, addend)
        if input.dim() == 2:
            return torch.addmm(addend, input, self.weight.T)
        return F.linear(input, self.weight) + addend


@contextmanager
def defer_weight_grad(*modules: nn.Module | None, enabled: bool = True) -> Iterator[None]:
    """Inside, the DeferredGradLinear layers of `modules` store inputs and gradients, and multiply them once at the end.

    Does nothing without gradients, in mixed precision, while torch.compile traces, or for weights that are not trained.
    """
    if not enabled or not torch.is_grad_enabled() or torch.is_autocast_enabled() or torch.compiler.is_compiling():
        yield
        return
    layers = [m for part in modules if part is not None for m in part.modules() if isinstance(m, DeferredGradLinear)]
    layers = [layer for layer in layers if layer.weight.requires_grad and layer._deferred is None]
    for layer in layers:
        stored = _Stored()
        layer._deferred = (_SharedWeight.apply(layer.weight, stored), stored)  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer._deferred = None
