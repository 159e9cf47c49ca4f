"""Perceptrons and the recurrent cell, against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isochrone.nets.mlp import Fourier, FourierMLP
from isochrone.nets.recurrent import GRU


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def twin(size: int, hidden: int) -> tuple[GRU, nn.GRUCell]:
    """Ours, and torch's with the same weights, in float64."""
    ours, theirs = GRU(size, hidden).double(), nn.GRUCell(size, hidden).double()
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.inputs.weight)
        theirs.bias_ih.copy_(ours.inputs.bias)
        theirs.weight_hh.copy_(ours.recur.weight)
        theirs.bias_hh.copy_(ours.recur.bias)
    return ours, theirs


def test_the_gru_cell_equals_torchs() -> None:
    ours, theirs = twin(5, 7)
    x = torch.randn(11, 5, generator=generator(), dtype=torch.float64, requires_grad=True)
    h = torch.randn(11, 7, generator=generator(1), dtype=torch.float64, requires_grad=True)
    one, two = ours(x, h), theirs(x, h)
    torch.testing.assert_close(one, two)
    for a, b in zip(
        torch.autograd.grad(one.sin().sum(), [x, h]), torch.autograd.grad(two.sin().sum(), [x, h]), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_input_projections_ahead_of_the_loop_change_nothing() -> None:
    """A whole sequence through one matrix product equals the cell applied row by row."""
    ours, _ = twin(5, 7)
    x = torch.randn(3, 9, 5, generator=generator(), dtype=torch.float64)
    gates, ahead, each = ours.project(x), torch.zeros(3, 7).double(), torch.zeros(3, 7).double()
    assert gates.shape == (3, 9, 21)
    for t in range(9):
        ahead, each = ours.step(gates[:, t], ahead), ours(x[:, t], each)
        torch.testing.assert_close(ahead, each, rtol=0, atol=1e-14)


def test_the_cell_takes_any_leading_shape_and_stays_bounded() -> None:
    cell = GRU(5, 7)
    h = cell(torch.randn(2, 3, 4, 5, generator=generator()) * 100, torch.zeros(2, 3, 4, 7))
    assert h.shape == (2, 3, 4, 7)
    assert h.abs().max() <= 1


def test_recurrent_weights_start_orthogonal() -> None:
    weight = GRU(5, 7).recur.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("fourier", [0, 9])
def test_an_mlp_has_the_layers_it_is_given(layers: int, fourier: int) -> None:
    net = FourierMLP(5, 4, 16, layers=layers, fourier=fourier)
    assert net(torch.zeros(2, 3, 5)).shape == (2, 3, 4)
    assert net(torch.zeros(5)).shape == (4,)
    kinds = [type(m).__name__ for m in net.net]
    assert kinds == ["Fourier"] * bool(fourier) + ["Linear", "LayerNorm", "SiLU"] * layers + ["Linear"]
    assert net.net[-1].in_features == (16 if layers else 5 + fourier)


def test_fourier_keeps_x_and_adds_sines_of_it() -> None:
    wave = Fourier(3, 6, 2.0)
    x = torch.randn(8, 3, generator=generator())
    out = wave(x)
    assert out.shape == (8, wave.out) == (8, 9)
    assert torch.equal(out[:, :3], x)
    torch.testing.assert_close(out[:, 3:], torch.sin(x @ wave.wave.weight.T + wave.wave.bias))
    assert all(p.requires_grad for p in wave.parameters())


def test_fourier_frequencies_have_the_given_scale() -> None:
    weight = Fourier(16, 4000, 3.0).wave.weight
    assert weight.norm(dim=1).square().mean().sqrt().item() == pytest.approx(3.0, rel=0.05)
    assert Fourier(16, 4000, 3.0).wave.bias.abs().max() <= math.pi
