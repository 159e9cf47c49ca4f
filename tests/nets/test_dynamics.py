"""Recurrent transitions against their equations, written out block by block in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isochrone.nets.mlp import MLP, MLPConfig, TwoInputMLP, trunc_normal
from isochrone.nets.recurrent import CELLS, BlockGRU, LayerNormGRU, dynamics


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module: nn.Module) -> nn.Module:
    """Weights, biases and norms away from their starting values, in float64."""
    module = module.double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(p + 0.3 * randn(*p.shape, seed=i))
    return module


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    spread = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (spread + 1e-3).sqrt() * norm.weight + norm.bias


def test_the_layer_norm_gru_equals_dreamers_formula() -> None:
    cell = shaken(LayerNormGRU(5, 7))
    assert isinstance(cell, LayerNormGRU)
    x, h = randn(11, 5), randn(11, 7, seed=1)
    gates = layer_norm(torch.cat([x, h], -1) @ cell.gates.weight.T, cell.norm)
    reset, new, update = gates[:, :7], gates[:, 7:14], gates[:, 14:]
    candidate = torch.tanh(torch.sigmoid(reset) * new)
    update = torch.sigmoid(update - 1)
    torch.testing.assert_close(cell(x, h), update * candidate + (1 - update) * h)


def test_the_block_gru_equals_its_blocks_one_by_one() -> None:
    """x from h, z and a goes to every block; each block mixes it with its own part of h, then gates its own part."""
    made = shaken(dynamics("block_gru", 6, 3, 8, MLPConfig(5, norm="rms", act="silu"), 4))
    assert isinstance(made, BlockGRU)
    h, z, a = randn(9, 8), randn(9, 6, seed=1), randn(9, 3, seed=2)

    def rms(x: Tensor, norm: nn.RMSNorm) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * norm.weight

    silu = nn.functional.silu
    parts = zip((made.h, made.z, made.a), (h, z, a), made.norms, strict=True)
    summary = torch.cat([silu(rms(layer(x), norm)) for layer, x, norm in parts], -1)  # (9, 15)
    inner = []
    for g in range(4):
        rows = slice(2 * g, 2 * g + 2)
        inner.append(h[:, rows] @ made.own[g] + summary @ made.shared.weight[rows].T + made.shared.bias[rows])
    hidden = silu(rms(torch.cat(inner, -1), made.norm))
    out = []
    for g in range(4):
        rows = slice(2 * g, 2 * g + 2)
        reset, new, update = (hidden[:, rows] @ made.gates[g] + made.bias[g]).chunk(3, -1)
        keep = torch.sigmoid(update - 1)
        out.append(keep * torch.tanh(torch.sigmoid(reset) * new) + (1 - keep) * h[:, rows])
    torch.testing.assert_close(made(h, z, made.precompute(a)), torch.cat(out, -1))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_a_transition_takes_any_leading_shape(cell: str, norm: str) -> None:
    made = shaken(dynamics(cell, 6, 3, 8, MLPConfig(5, norm=norm, act="elu"), 4))
    size = 5 if cell == "none" else 8
    h, z, a = randn(2, 4, 8), randn(2, 4, 6, seed=1), randn(2, 4, 3, seed=2)
    wide = made(h, z, made.precompute(a))
    assert wide.shape == (2, 4, size)
    for i in range(2):
        torch.testing.assert_close(wide[i], made(h[i], z[i], made.precompute(a[i])), rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(wide.sin().sum(), list(made.parameters()))
    assert all(g.any() for g in grads), "every weight takes part"


def test_only_the_memoryless_transition_ignores_h() -> None:
    for cell in CELLS:
        made = shaken(dynamics(cell, 6, 3, 8, MLPConfig(5, norm="layer", act="silu"), 4))
        z, action = randn(4, 6), made.precompute(randn(4, 3, seed=1))
        one, two = made(randn(4, 8, seed=2), z, action), made(randn(4, 8, seed=3), z, action)
        assert torch.equal(one, two) == (cell == "none")


@pytest.mark.parametrize("layers", [1, 3])
def test_a_two_input_mlp_is_the_mlp_of_both_inputs(layers: int) -> None:
    net = shaken(TwoInputMLP(7, 5, 4, MLPConfig(6, layers, "layer", "silu")))
    assert isinstance(net, TwoInputMLP)
    assert net.h is not None
    h, e = randn(3, 7), randn(3, 5, seed=1)
    first = torch.cat([h, e], -1) @ torch.cat([net.h.weight, net.e.weight], 1).T
    torch.testing.assert_close(net(h, net.precompute(e)), net.rest(nn.functional.silu(net.norm(first))))
    assert len(net.rest.dense) == layers - 1
    alone = TwoInputMLP(0, 5, 4, MLPConfig(6, 1, "none", "relu")).double()
    torch.testing.assert_close(alone(None, alone.precompute(e)), alone.rest(torch.relu(alone.e(e))))


def test_initial_weights_have_the_declared_variance() -> None:
    weight = trunc_normal(torch.empty(600, 500), 500)
    assert weight.std().item() * 500**0.5 == pytest.approx(1, abs=0.01)
    assert weight.abs().max().item() <= 2 / 0.8796 / 500**0.5 + 1e-6
    zero = MLP(5, 4, MLPConfig(6, 2, "layer", "silu"), out_scale=0.0)
    assert not zero(torch.randn(3, 5)).any()
