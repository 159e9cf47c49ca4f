"""Linear layers of a recurrence whose weight gradient is one product over all time steps, not one per step.

Backpropagation through T steps computes g_t^T x_t for each and adds it to the sum: with few rows per step that is T
times the traffic of a whole weight matrix. Within `gathering(...)` each step only keeps x_t and g_t, and when all steps
are through, the weight receives [g_1 .. g_T]^T [x_1 .. x_T] at once. Values are the same up to the order of summation.

Recurrent cells whose input projection can be computed outside the loop.

h' = f(h, z, a): the recurrent part of a state-space model. What hangs on actions alone is computed ahead.

Every one has `ahead(action) -> A`, for all time steps in one product, and `forward(h, z, A) -> h'`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.linear import Gathered
from isochrone.nets.mlp import ACTS, NORMS, dense, trunc_normal


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, as in torch.nn.GRUCell).

    `project` makes the part that does not depend on h, for all time steps in one matrix product; `step` does the rest.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.inputs = Gathered(size, 3 * hidden)
        self.recur = Gathered(hidden, 3 * hidden)
        self.hidden = hidden
        nn.init.orthogonal_(self.recur.weight)

    def project(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... G"]:
        """The input's share of the three gates, G = 3 hidden."""
        return self.inputs(x)

    def step(self, gates: Float[Tensor, "... G"], h: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """One recurrent step from projected inputs."""
        # Both sigmoids in one pass over two thirds of the gates: this loop lives on small operations.
        recur, two = self.recur(h), 2 * self.hidden
        reset, keep = torch.sigmoid(gates[..., :two] + recur[..., :two]).chunk(2, -1)
        candidate = torch.tanh(torch.addcmul(gates[..., two:], reset, recur[..., two:]))
        return torch.lerp(candidate, h, keep)

    def forward(self, x: Float[Tensor, "... I"], h: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.step(self.project(x), h)


class Inputs(nn.Module):
    """act(norm(W_z z + W_a a + b)): sample and action, mixed."""

    def __init__(self, stoch: int, action: int, hidden: int, norm: str, act: str) -> None:
        super().__init__()
        self.z = dense(stoch, hidden, bias=False, fan_in=stoch + action)
        self.a = dense(action, hidden, bias=norm == "none", fan_in=stoch + action)
        self.norm, self.act = NORMS[norm](hidden), ACTS[act]

    def forward(self, z: Float[Tensor, "*B F"], ahead: Float[Tensor, "*B U"]) -> Float[Tensor, "*B U"]:
        return self.act(self.norm(self.z(z, ahead)))


class Recurrent(nn.Module):
    """Inputs, then a cell that keeps h (PlaNet; Dreamer up to v3 of 2023)."""

    def __init__(self, stoch: int, action: int, deter: int, hidden: int, norm: str, act: str, cell: nn.Module) -> None:
        super().__init__()
        self.inputs, self.cell = Inputs(stoch, action, hidden, norm, act), cell

    def ahead(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B U"]:
        """The action's share of the inputs."""
        return self.inputs.a(action)

    def forward(self, h: Tensor, z: Tensor, ahead: Tensor) -> Float[Tensor, "*B D"]:
        return self.cell(self.inputs(z, ahead), h)


class LayerNormGRU(nn.Module):
    """GRU whose three gates share one LayerNorm (Hafner et al. 2020, as in Dreamer v2 and v3 of 2023).

    [r, c, u] = LN(W [x, h]); c = tanh(sigmoid(r) c); h' = h + sigmoid(u - 1) (c - h): it forgets slowly at first.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.gates = dense(size + hidden, 3 * hidden, bias=False)
        self.norm = nn.LayerNorm(3 * hidden, eps=1e-3)

    def forward(self, x: Float[Tensor, "*B I"], h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return gated(h, *self.norm(self.gates(torch.cat([x, h], -1))).chunk(3, -1))


def gated(h: Tensor, reset: Tensor, new: Tensor, update: Tensor) -> Tensor:
    """Dreamer's gates: the reset acts on the candidate, after the product."""
    candidate = torch.tanh(torch.sigmoid(reset) * new)
    return torch.lerp(h, candidate, torch.sigmoid(update - 1))


class BlockGRU(nn.Module):
    """Block-diagonal GRU (Hafner et al. 2025): h in G blocks; each sees its own block and a summary of h, z and a.

    The summary is shared by all blocks, so its product is one dense one and the concatenation is never built.
    """

    def __init__(self, stoch: int, action: int, deter: int, hidden: int, norm: str, act: str, blocks: int = 8) -> None:
        super().__init__()
        if deter % blocks:
            raise ValueError(f"block GRU: deter {deter} is not a multiple of {blocks} blocks")
        self.blocks, width = blocks, deter // blocks
        biased = norm == "none"
        self.h, self.z, self.a = (dense(n, hidden, biased) for n in (deter, stoch, action))
        self.norms = nn.ModuleList(NORMS[norm](hidden) for _ in range(3))
        self.act = ACTS[act]
        self.shared = dense(3 * hidden, deter, fan_in=width + 3 * hidden)
        self.own = nn.Parameter(torch.empty(blocks, width, width))
        self.norm = NORMS[norm](deter)
        self.gates = nn.Parameter(torch.empty(blocks, width, 3 * width))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, 3 * width))
        trunc_normal(self.own, width + 3 * hidden)
        trunc_normal(self.gates, width)

    def ahead(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B U"]:
        """The action's summary, finished: nothing else goes into it."""
        return self.act(self.norms[2](self.a(action)))

    def forward(self, h: Tensor, z: Tensor, ahead: Tensor) -> Float[Tensor, "*B D"]:
        lead, flat = h.shape[:-1], h.reshape(-1, h.shape[-1])
        seen = [self.act(self.norms[0](self.h(h))), self.act(self.norms[1](self.z(z))), ahead]
        shared = self.shared(torch.cat(seen, -1)).reshape(-1, h.shape[-1])  # (N, D)
        inner = self.act(self.norm(shared + self._grouped(flat, self.own)))
        gates = torch.baddbmm(self.bias, self._blocks(inner), self.gates)  # (G, N, 3 D/G)
        new = gated(self._blocks(flat), *gates.chunk(3, -1))  # (G, N, D/G)
        return new.transpose(0, 1).reshape(*lead, -1)

    def _blocks(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "G N W"]:
        return x.unflatten(-1, (self.blocks, -1)).transpose(0, 1)

    def _grouped(self, x: Float[Tensor, "N D"], weight: Tensor) -> Float[Tensor, "N D"]:
        return torch.bmm(self._blocks(x), weight).transpose(0, 1).flatten(1)


class Forgetful(nn.Module):
    """No memory but the sample: features of z and a, for a model that is stochastic only."""

    def __init__(self, stoch: int, action: int, hidden: int, norm: str, act: str) -> None:
        super().__init__()
        self.inputs = Inputs(stoch, action, hidden, norm, act)

    def ahead(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B U"]:
        """The action's share of the inputs."""
        return self.inputs.a(action)

    def forward(self, h: Tensor, z: Tensor, ahead: Tensor) -> Float[Tensor, "*B U"]:
        return self.inputs(z, ahead)


CELLS = ("gru", "ln_gru", "block_gru", "none")


def dynamics(
    cell: str, stoch: int, action: int, deter: int, hidden: int, norm: str, act: str, blocks: int
) -> nn.Module:
    """The dynamics called `cell`."""
    if cell == "none":
        return Forgetful(stoch, action, hidden, norm, act)
    if cell == "block_gru":
        return BlockGRU(stoch, action, deter, hidden, norm, act, blocks)
    kinds = {"gru": GRU, "ln_gru": LayerNormGRU}
    return Recurrent(stoch, action, deter, hidden, norm, act, kinds[cell](hidden, deter))
