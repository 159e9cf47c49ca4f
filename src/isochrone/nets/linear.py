"""Linear layers of a recurrence whose weight gradient is one product over all time steps, not one per step.

Backpropagation through T steps computes g_t^T x_t for each and adds it to the sum: with few rows per step that is T
times the traffic of a whole weight matrix. Within `gathering(...)` each step only keeps x_t and g_t, and when all steps
are through, the weight receives [g_1 .. g_T]^T [x_1 .. x_T] at once. Values are the same up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class _Kept:
    """What one backward pass has brought to one layer so far."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.task = -1

    def add(self, x: Tensor, grad: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task != self.task:  # an earlier pass did not ask for this weight and left its part behind
            self.take()
            self.task = task
        self.inputs.append(x)
        self.grads.append(grad)

    def take(self) -> tuple[list[Tensor], list[Tensor]]:
        found = self.inputs, self.grads
        self.inputs, self.grads = [], []
        return found


class _Whole(torch.autograd.Function):
    """The weight, at the head of the loop: its backward runs once, after that of every step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: _Kept) -> Tensor:
        ctx.kept = kept
        ctx.set_materialize_grads(False)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        inputs, outs = ctx.kept.take()
        return (torch.cat(outs).T @ torch.cat(inputs) if outs else None), None


class _Step(torch.autograd.Function):
    """plus + x W^T; backward leaves the weight's part with `kept`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, plus: Tensor | None, kept: _Kept) -> Tensor:
        ctx.kept, ctx.flat = kept, plus is not None and plus.dim() == 1
        ctx.save_for_backward(x, weight)
        return x @ weight.T if plus is None else torch.addmm(plus, x, weight.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        ctx.kept.add(x, grad)
        back = grad @ weight if ctx.needs_input_grad[0] else None
        return back, None, (grad.sum(0) if ctx.flat else grad) if ctx.needs_input_grad[2] else None, None


class Gathered(nn.Linear):
    """`nn.Linear` that can take part in `gathering`, and adds `plus` in the same pass."""

    _inside: tuple[Tensor, _Kept] | None = None

    def forward(self, input: Float[Tensor, "*B I"], plus: Tensor | None = None) -> Float[Tensor, "*B O"]:
        """input W^T + bias, or + plus in a layer without bias."""
        if plus is not None and self.bias is not None:
            raise ValueError("a layer with a bias takes no 'plus': give one of the two")
        plus = self.bias if plus is None else plus
        if not torch.compiler.is_compiling() and self._inside is not None and input.dim() == 2:
            weight, kept = self._inside
            return _Step.apply(input, weight, plus, kept)  # type: ignore[return-value]
        if plus is None or plus is self.bias:
            return F.linear(input, self.weight, plus)
        if input.dim() == 2:
            return torch.addmm(plus, input, self.weight.T)
        return F.linear(input, self.weight) + plus


@contextmanager
def gathering(*parts: nn.Module | None, on: bool = True) -> Iterator[None]:
    """Let the Gathered layers of `parts` gather their weights' gradients over everything that happens inside.

    Does nothing without gradients, in mixed precision, while torch.compile traces, or for weights that are not trained.
    """
    if not on or not torch.is_grad_enabled() or torch.is_autocast_enabled() or torch.compiler.is_compiling():
        yield
        return
    layers = [m for part in parts if part is not None for m in part.modules() if isinstance(m, Gathered)]
    layers = [layer for layer in layers if layer.weight.requires_grad and layer._inside is None]
    for layer in layers:
        kept = _Kept()
        layer._inside = (_Whole.apply(layer.weight, kept), kept)  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer._inside = None
