"""Perceptrons, and the Fourier features that let one see sharp edges in smooth coordinates.

Normalisation and activation by name, and the weights that networks start from.

A network of two inputs of which one is known for all time steps ahead: the posterior's view of belief and frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.linear import Gathered


class Fourier(nn.Module):
    """x -> [x, sin(Wx + b)] with trainable W ~ N(0, scale^2) (Tancik et al. 2020, eq. 5, with learned frequencies).

    A wall splits neighbours in z that are far in actions; a plain perceptron of z learns such edges last.
    """

    def __init__(self, size: int, count: int, scale: float) -> None:
        super().__init__()
        self.wave = nn.Linear(size, count)
        self.out = size + count
        nn.init.normal_(self.wave.weight, std=scale / math.sqrt(size))
        nn.init.uniform_(self.wave.bias, -math.pi, math.pi)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return torch.cat([x, torch.sin(self.wave(x))], -1)


class MLP(nn.Module):
    """`layers` hidden layers of Linear, LayerNorm, SiLU, then one Linear.

    `fourier` > 0 puts that many Fourier features of frequency `scale` in front; `skip` adds a linear map of the input,
    so that what only has to be carried over need not be learned.
    """

    def __init__(
        self,
        size: int,
        out: int,
        hidden: int,
        layers: int = 2,
        fourier: int = 0,
        scale: float = 1.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(size, out, bias=False) if skip else None
        parts: list[nn.Module] = []
        if fourier:
            parts.append(Fourier(size, fourier, scale))
            size += fourier
        for _ in range(layers):
            parts += [nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.SiLU()]
            size = hidden
        parts.append(nn.Linear(size, out))
        self.net = nn.Sequential(*parts)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return self.net(x) if self.skip is None else self.net(x) + self.skip(x)


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
