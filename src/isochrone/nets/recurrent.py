"""h' = f(h, z, a): recurrent cells, and the dynamics of the state-space models that are made of them.

All of them split off what does not depend on h, so that it is computed for all time steps in one product before the
loop: `GRU.project(x)`, and for dynamics `precompute(action)`, followed by `forward(h, z, precomputed) -> h'`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.linear import DeferredGradLinear
from isochrone.nets.mlp import ACTS, NORMS, MLPConfig, dense, trunc_normal


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, as in torch.nn.GRUCell).

    `project` is the part that does not depend on h, for all time steps in one matrix product; `step` is the rest.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.inputs = DeferredGradLinear(size, 3 * hidden)
        self.recur = DeferredGradLinear(hidden, 3 * hidden)
        self.hidden = hidden
        nn.init.orthogonal_(self.recur.weight)

    def project(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... G"]:
        """The input's share of the three gates, G = 3 hidden."""
        return self.inputs(x)

    def step(self, gates: Float[Tensor, "... G"], h: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """One recurrent step from projected inputs."""
        # both sigmoids in one operation: the loop over time is bound by the number of operations, not their size
        recur, two = self.recur(h), 2 * self.hidden
        reset, keep = torch.sigmoid(gates[..., :two] + recur[..., :two]).chunk(2, -1)
        candidate = torch.tanh(torch.addcmul(gates[..., two:], reset, recur[..., two:]))
        return torch.lerp(candidate, h, keep)

    def forward(self, x: Float[Tensor, "... I"], h: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.step(self.project(x), h)


class InputLayer(nn.Module):
    """act(norm(W_z z + W_a a + b)), with W_a a + b = `a(action)` computed before the loop."""

    def __init__(self, z: int, action: int, config: MLPConfig) -> None:
        super().__init__()
        self.z = dense(z, config.hidden, bias=False, fan_in=z + action)
        self.a = dense(action, config.hidden, bias=config.biased, fan_in=z + action)
        self.norm, self.act = NORMS[config.norm](config.hidden), ACTS[config.act]

    def forward(self, z: Float[Tensor, "*B F"], precomputed: Float[Tensor, "*B U"]) -> Float[Tensor, "*B U"]:
        return self.act(self.norm(self.z(z, precomputed)))


class Recurrent(nn.Module):
    """An input layer, then a cell that carries h (PlaNet; Dreamer up to v3 of 2023)."""

    def __init__(self, z: int, action: int, config: MLPConfig, cell: nn.Module) -> None:
        super().__init__()
        self.inputs, self.cell = InputLayer(z, action, config), cell

    def precompute(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B U"]:
        """The action's share of the input layer."""
        return self.inputs.a(action)

    def forward(self, h: Tensor, z: Tensor, precomputed: Tensor) -> Float[Tensor, "*B D"]:
        return self.cell(self.inputs(z, precomputed), h)


class LayerNormGRU(nn.Module):
    """GRU whose three gates share one LayerNorm (Hafner et al. 2020, as in Dreamer v2 and v3 of 2023).

    [r, c, u] = LN(W [x, h]); c = tanh(sigmoid(r) c); h' = h + sigmoid(u - 1) (c - h): the -1 keeps h long at first.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.gates = dense(size + hidden, 3 * hidden, bias=False)
        self.norm = nn.LayerNorm(3 * hidden, eps=1e-3)

    def forward(self, x: Float[Tensor, "*B I"], h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return dreamer_gates(h, *self.norm(self.gates(torch.cat([x, h], -1))).chunk(3, -1))


def dreamer_gates(h: Tensor, reset: Tensor, candidate: Tensor, update: Tensor) -> Tensor:
    """Next h (..., D) from three pre-activations; the reset gate acts on the candidate, after the matrix product."""
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(h, candidate, torch.sigmoid(update - 1))


class BlockGRU(nn.Module):
    """Block-diagonal GRU (Hafner et al. 2025): each of G blocks of h reads itself and a summary of h, z and a.

    The summary is the same for all blocks, so its product is one dense layer and the concatenation is never built.
    Raises ValueError where the size of h is not a multiple of `blocks`.
    """

    def __init__(self, z: int, action: int, h: int, config: MLPConfig, blocks: int = 8) -> None:
        super().__init__()
        if h % blocks:
            raise ValueError(f"block GRU: h of size {h} is not a multiple of {blocks} blocks")
        self.blocks, width, hidden = blocks, h // blocks, config.hidden
        self.h, self.z, self.a = (dense(n, hidden, config.biased) for n in (h, z, action))
        self.norms = nn.ModuleList(NORMS[config.norm](hidden) for _ in range(3))
        self.act = ACTS[config.act]
        self.shared = dense(3 * hidden, h, fan_in=width + 3 * hidden)
        self.own = nn.Parameter(torch.empty(blocks, width, width))
        self.norm = NORMS[config.norm](h)
        self.gates = nn.Parameter(torch.empty(blocks, width, 3 * width))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, 3 * width))
        trunc_normal(self.own, width + 3 * hidden)
        trunc_normal(self.gates, width)

    def precompute(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B U"]:
        """The action's part of the summary."""
        return self.act(self.norms[2](self.a(action)))

    def forward(self, h: Tensor, z: Tensor, precomputed: Tensor) -> Float[Tensor, "*B D"]:
        lead, flat = h.shape[:-1], h.reshape(-1, h.shape[-1])
        summary = [self.act(self.norms[0](self.h(h))), self.act(self.norms[1](self.z(z))), precomputed]
        shared = self.shared(torch.cat(summary, -1)).reshape(-1, h.shape[-1])  # (N, D)
        inner = self.act(self.norm(shared + self._grouped(flat, self.own)))
        gates = torch.baddbmm(self.bias, self._blocks(inner), self.gates)  # (G, N, 3 D/G)
        new = dreamer_gates(self._blocks(flat), *gates.chunk(3, -1))  # (G, N, D/G)
        return new.transpose(0, 1).reshape(*lead, -1)

    def _blocks(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "G N W"]:
        return x.unflatten(-1, (self.blocks, -1)).transpose(0, 1)

    def _grouped(self, x: Float[Tensor, "N D"], weight: Tensor) -> Float[Tensor, "N D"]:
        return torch.bmm(self._blocks(x), weight).transpose(0, 1).flatten(1)


class Memoryless(nn.Module):
    """Features of z and a alone: nothing is remembered but the sample (the stochastic state-space model)."""

    def __init__(self, z: int, action: int, config: MLPConfig) -> None:
        super().__init__()
        self.inputs = InputLayer(z, action, config)

    def precompute(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B U"]:
        """The action's share of the input layer."""
        return self.inputs.a(action)

    def forward(self, h: Tensor, z: Tensor, precomputed: Tensor) -> Float[Tensor, "*B U"]:
        return self.inputs(z, precomputed)


CELLS = ("gru", "ln_gru", "block_gru", "none")


def dynamics(cell: str, z: int, action: int, h: int, config: MLPConfig, blocks: int = 8) -> nn.Module:
    """The dynamics of the cell called `cell` (one of CELLS); sizes of z, action and h; `config` of its input layer."""
    if cell == "none":
        return Memoryless(z, action, config)
    if cell == "block_gru":
        return BlockGRU(z, action, h, config, blocks)
    kinds = {"gru": GRU, "ln_gru": LayerNormGRU}
    return Recurrent(z, action, config, kinds[cell](config.hidden, h))
