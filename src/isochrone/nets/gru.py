"""Recurrent cells whose input projection can be computed outside the loop."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.gathered import Gathered


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
