"""A network of two inputs of which one is known for all time steps ahead: the posterior's view of belief and frame."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.norms import ACTS, NORMS, Perceptron, dense


class Fork(nn.Module):
    """Perceptron of [h, e], `layers` >= 1 hidden layers, its first product split: `ahead(e)` runs outside the loop."""

    def __init__(self, deter: int, embed: int, out: int, hidden: int, layers: int, norm: str, act: str) -> None:
        super().__init__()
        self.h = dense(deter, hidden, bias=False, fan_in=deter + embed) if deter else None
        self.e = dense(embed, hidden, bias=norm == "none", fan_in=deter + embed)
        self.norm, self.act = NORMS[norm](hidden), ACTS[act]
        self.rest = Perceptron(hidden, out, hidden, layers - 1, norm, act)

    def ahead(self, embed: Float[Tensor, "*B E"]) -> Float[Tensor, "*B U"]:
        """The frame's share of the first layer."""
        return self.e(embed)

    def forward(self, h: Float[Tensor, "*B D"] | None, ahead: Float[Tensor, "*B U"]) -> Float[Tensor, "*B R"]:
        """`h` is None where the posterior does not look at the belief (decoupled)."""
        if self.h is not None and h is not None:
            ahead = self.h(h, ahead)
        return self.rest(self.act(self.norm(ahead)))
