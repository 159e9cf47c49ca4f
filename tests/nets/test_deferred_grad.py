"""Deferred weight gradients equal those of plain layers, in float64, whatever the backward pass asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isochrone.nets.linear import DeferredGradLinear, defer_weight_grad
from isochrone.nets.mlp import MLPConfig
from isochrone.nets.recurrent import GRU, dynamics

STEPS, ROWS = 7, 3


def rolled(cell: Callable[..., Tensor], h: Tensor, xs: Tensor) -> Tensor:
    hs = []
    for x in xs.unbind():
        h = cell(x, h)
        hs.append(h)
    return torch.stack(hs)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    h = torch.randn(ROWS, 5, generator=rng, dtype=torch.float64)
    return h, torch.randn(STEPS, ROWS, 4, generator=rng, dtype=torch.float64)


def gradients(module: nn.Module, loss: Tensor, **more: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), **more))


def test_the_deferred_gradient_equals_the_plain_one(data: tuple[Tensor, Tensor]) -> None:
    cell = GRU(4, 5).double()
    plain = gradients(cell, rolled(cell, *data).square().sum())
    with defer_weight_grad(cell):
        out = rolled(cell, *data)
    for one, two in zip(plain, gradients(cell, out.square().sum()), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", ["gru", "ln_gru", "block_gru", "none"])
def test_every_recurrence_has_the_same_gradients(kind: str) -> None:
    part = dynamics(kind, 6, 2, 8, MLPConfig(8, norm="layer", act="silu"), 2).double()
    rng = torch.Generator().manual_seed(1)
    zs, actions = (torch.randn(STEPS, ROWS, n, generator=rng, dtype=torch.float64) for n in (6, 2))

    def loss() -> Tensor:
        h, total = torch.zeros(ROWS, 8, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for z, action in zip(zs.unbind(), part.precompute(actions).unbind(), strict=True):
            h = part(h, z, action)
            total = total + h.square().sum()
        return total

    plain = gradients(part, loss(), allow_unused=True)
    with defer_weight_grad(part):
        deferred = loss()
    for one, two in zip(plain, gradients(part, deferred, allow_unused=True), strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two)


def test_input_and_addend_get_their_gradients(data: tuple[Tensor, Tensor]) -> None:
    layer = DeferredGradLinear(4, 5, bias=False).double()
    x, addend = data[1][0].clone().requires_grad_(), data[0].clone().requires_grad_()
    with defer_weight_grad(layer):
        out = layer(x, addend)
    got = torch.autograd.grad(out.square().sum(), [x, addend])
    want = torch.autograd.grad((x @ layer.weight.T + addend).square().sum(), [x, addend])
    torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="bias"):
        DeferredGradLinear(4, 5)(x, addend)


def test_a_backward_pass_without_the_weight_leaves_nothing_behind(data: tuple[Tensor, Tensor]) -> None:
    """What the gradient contract does: many passes over one graph, each for other weights or part of the loss."""
    cell, h = GRU(4, 5).double(), data[0].clone().requires_grad_()
    plain = rolled(cell, h, data[1])
    with defer_weight_grad(cell):
        out = rolled(cell, h, data[1])
    torch.autograd.grad(out.sum(), [h], retain_graph=True)
    for rows in (slice(0, 2), slice(3, 4), slice(0, STEPS)):
        want = gradients(cell, plain[rows].square().sum(), retain_graph=True)
        got = gradients(cell, out[rows].square().sum(), retain_graph=True)
        torch.testing.assert_close(got, want)


def test_no_deferred_gradient_where_nothing_is_trained(data: tuple[Tensor, Tensor]) -> None:
    cell = GRU(4, 5).double()
    frozen = copy.deepcopy(cell).requires_grad_(False)
    h = data[0].clone().requires_grad_()
    with defer_weight_grad(cell, frozen):
        out = rolled(frozen, h, data[1])
        assert cell.recur._deferred is not None
        assert frozen.recur._deferred is None
    assert cell.recur._deferred is None
    assert torch.autograd.grad(out.sum(), [h])[0].shape == h.shape
    with torch.no_grad(), defer_weight_grad(cell):
        assert cell.recur._deferred is None
    with defer_weight_grad(cell, enabled=False):
        assert cell.recur._deferred is None
