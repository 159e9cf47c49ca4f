"""Perceptrons, and the Fourier features that let one see sharp edges in smooth coordinates."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
