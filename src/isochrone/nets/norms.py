"""Normalisation and activation by name, and the weights that networks start from."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from isochrone.nets.gathered import Gathered

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda size: nn.Identity(),
    "layer": lambda size: nn.LayerNorm(size, eps=1e-3),
    "rms": lambda size: nn.RMSNorm(size, eps=1e-4),
}
ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "elu": nn.functional.elu,
    "silu": nn.functional.silu,
    "none": lambda x: x,
}


def trunc_normal(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Truncated at two standard deviations, and wide enough that the variance is scale / fan_in all the same.

    (dreamerv3-torch cuts at +-2.0 instead of +-2 std; JAX's variance scaling divides by .8796 as here.)
    """
    std = math.sqrt(scale / fan_in) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def dense(size: int, out: int, bias: bool = True, fan_in: int = 0, scale: float = 1.0) -> Gathered:
    """A linear layer with truncated normal weights and no bias at first. `fan_in`: where it is one part of a larger."""
    layer = Gathered(size, out, bias=bias)
    trunc_normal(layer.weight, fan_in or size, scale)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Perceptron(nn.Module):
    """`layers` times Linear, norm, act; then one Linear, scaled by `last` at first (0: it starts as zero)."""

    def __init__(self, size: int, out: int, hidden: int, layers: int, norm: str, act: str, last: float = 1.0) -> None:
        super().__init__()
        self.act = ACTS[act]
        widths = [size] + [hidden] * layers
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.dense = nn.ModuleList(dense(a, b, norm == "none") for a, b in pairs)
        self.norms = nn.ModuleList(NORMS[norm](b) for _, b in pairs)
        self.head = dense(widths[-1], out, scale=max(last, 1e-12))
        if last == 0:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.dense, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.head(x)
