"""Encoder and decoder of a dict of observations: pixels through convolutions, vectors through perceptrons."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.conv import ENCODERS
from isochrone.nets.image import IMAGE
from isochrone.nets.norms import Perceptron

KINDS = (*IMAGE, *ENCODERS)


def _image_encoder(kind: str, image: tuple[int, int, int], depth: int, embed: int, hidden: int) -> tuple[Any, int]:
    if kind in IMAGE:
        made = IMAGE[kind][0](image, depth)
        return made, made.out
    return ENCODERS[kind][0](image, embed, depth, hidden), embed


def _image_decoder(kind: str, image: tuple[int, int, int], size: int, depth: int, hidden: int) -> Any:
    return IMAGE[kind][1](image, size, depth) if kind in IMAGE else ENCODERS[kind][1](image, size, depth, hidden)


class Encoder(nn.Module):
    """{'image': floats around 0, name: vector} -> embedding (..., E); `out` says E.

    `embed` is the size of a patch or conv embedding, and of every vector's; planet and dreamer have sizes of their own.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        kind: str,
        depth: int,
        embed: int,
        hidden: int,
        layers: int,
        norm: str,
        act: str,
    ) -> None:
        super().__init__()
        self.parts, self.out = nn.ModuleDict(), 0
        for name, shape in shapes.items():
            if name == "image":
                c, y, x = shape
                self.parts[name], size = _image_encoder(kind, (c, y, x), depth, embed, hidden)
            else:
                self.parts[name], size = Perceptron(prod(shape), embed, hidden, layers, norm, act), embed
            self.out += size

    def forward(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*B E"]:
        codes = [part(obs[name]) for name, part in self.parts.items()]
        return codes[0] if len(codes) == 1 else torch.cat(codes, -1)


class Decoder(nn.Module):
    """Features -> {'image': floats around 0, name: vector}: the means of unit-variance Gaussians."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        kind: str,
        size: int,
        depth: int,
        hidden: int,
        layers: int,
        norm: str,
        act: str,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for name, shape in shapes.items():
            if name == "image":
                c, y, x = shape
                self.parts[name] = _image_decoder(kind, (c, y, x), size, depth, hidden)
            else:
                self.parts[name] = Perceptron(size, prod(shape), hidden, layers, norm, act)

    def image(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B C Y X"]:
        """The image alone."""
        return self.parts["image"](feat)

    def vectors(self, feat: Float[Tensor, "*B F"]) -> dict[str, Tensor]:
        """Everything but the image."""
        return {name: part(feat) for name, part in self.parts.items() if name != "image"}

    def forward(self, feat: Float[Tensor, "*B F"]) -> dict[str, Tensor]:
        return {name: part(feat) for name, part in self.parts.items()}
