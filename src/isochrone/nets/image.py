"""Encoders and decoders of observations: images through convolutions or patches, vectors through MLPs.

All keep position: they end in a flatten, never in a global average pool. `patch`: one linear map per 4x4 patch, then
two dense layers, for small scenes on a CPU. `conv`: four strided convolutions. `planet` and `dreamer`: the networks of
the papers, which take floats around 0. Images are (..., C, Y, X).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.core.tensors import as_float
from isochrone.nets.mlp import MLP, MLPConfig, trunc_normal


def _check(image: tuple[int, int, int], unit: int, kind: str) -> None:
    _, y, x = image
    if y % unit or x % unit or y < unit or x < unit:
        raise UserError(
            f"image size {y}x{x}: the '{kind}' encoder takes multiples of {unit} pixels (for example 64x64); "
            "choose another encoder or resize the observations"
        )


class PatchEncoder(nn.Module):
    """image (..., C, Y, X) -> embedding (..., out)."""

    unit = 4

    def __init__(self, image: tuple[int, int, int], out: int, depth: int, hidden: int) -> None:
        super().__init__()
        _check(image, self.unit, "patch")
        c, y, x = image
        self.image = image
        # no biases before the norm: an empty patch is exactly 0, so a large black scene does not outweigh a small box
        self.patch = nn.Linear(c * self.unit**2, depth, bias=False)
        self.dense = nn.Linear(depth * (y // self.unit) * (x // self.unit), hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, out)

    def forward(self, image: Tensor) -> Float[Tensor, "... F"]:
        c, y, x = self.image
        lead, u = image.shape[:-3], self.unit
        if image.dtype == torch.uint8:  # four bytes of a patch's row are moved as one int32
            words = image.contiguous().view(torch.int32).reshape(-1, c, y // u, u, x // u)
            tiles = words.permute(0, 2, 4, 1, 3).reshape(-1, (y // u) * (x // u), c * u).view(torch.uint8)
        else:
            tiles = image.reshape(-1, c, y // u, u, x // u, u).permute(0, 2, 4, 1, 3, 5)  # (N, y, x, C, u, u)
            tiles = tiles.reshape(-1, (y // u) * (x // u), c * u * u)
        # floats last: permuting bytes moves a quarter of the memory
        code = nn.functional.silu(self.patch(as_float(tiles)))  # (N, tiles, depth)
        hidden = nn.functional.silu(self.norm(self.dense(code.flatten(1))))
        return self.head(hidden).reshape(*lead, -1)


class PatchDecoder(nn.Module):
    """embedding (..., F) -> image (..., C, Y, X), 0..1 by training, not by clamping."""

    unit = 4

    def __init__(self, image: tuple[int, int, int], size: int, depth: int, hidden: int) -> None:
        super().__init__()
        _check(image, self.unit, "patch")
        c, y, x = image
        self.image, self.depth = image, depth
        self.head = nn.Linear(size, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dense = nn.Linear(hidden, depth * (y // self.unit) * (x // self.unit))
        self.patch = nn.Linear(depth, c * self.unit**2)
        self.base = nn.Parameter(torch.zeros(c, y, x))  # learned static background

    def forward(self, z: Float[Tensor, "... F"]) -> Float[Tensor, "... C Y X"]:
        c, y, x = self.image
        u = self.unit
        hidden = nn.functional.silu(self.norm(self.head(z.reshape(-1, z.shape[-1]))))
        code = nn.functional.silu(self.dense(hidden)).reshape(-1, (y // u) * (x // u), self.depth)
        tiles = self.patch(code).reshape(-1, y // u, x // u, c, u, u).permute(0, 3, 1, 4, 2, 5)
        return tiles.reshape(*z.shape[:-1], c, y, x) + self.base


class ConvEncoder(nn.Module):
    """Four k4 s2 convolutions with doubling channels, then flatten and one dense layer."""

    unit = 16

    def __init__(self, image: tuple[int, int, int], out: int, depth: int, hidden: int) -> None:
        super().__init__()
        _check(image, self.unit, "conv")
        c, y, x = image
        widths = [c, depth, 2 * depth, 4 * depth, 4 * depth]
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.SiLU()]
        self.net = nn.Sequential(*layers)
        self.dense = nn.Linear(widths[-1] * (y // 16) * (x // 16), hidden)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, out)

    def forward(self, image: Tensor) -> Float[Tensor, "... F"]:
        lead = image.shape[:-3]
        code = self.net(as_float(image).reshape(-1, *image.shape[-3:])).flatten(1)
        return self.head(nn.functional.silu(self.norm(self.dense(code)))).reshape(*lead, -1)


class ConvDecoder(nn.Module):
    """The reverse of ConvEncoder: two dense layers, then four transposed convolutions."""

    unit = 16

    def __init__(self, image: tuple[int, int, int], size: int, depth: int, hidden: int) -> None:
        super().__init__()
        _check(image, self.unit, "conv")
        c, y, x = image
        widths = [4 * depth, 4 * depth, 2 * depth, depth, c]
        self.start = (widths[0], y // 16, x // 16)
        self.dense = nn.Sequential(
            nn.Linear(size, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, widths[0] * (y // 16) * (x // 16)),
        )
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.SiLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
        self.net = nn.Sequential(*layers)
        self.base = nn.Parameter(torch.zeros(c, y, x))

    def forward(self, z: Float[Tensor, "... F"]) -> Float[Tensor, "... C Y X"]:
        lead = z.shape[:-1]
        image = self.net(self.dense(z.reshape(-1, z.shape[-1])).reshape(-1, *self.start))
        return image.reshape(*lead, *image.shape[-3:]) + self.base


ENCODERS = {"patch": (PatchEncoder, PatchDecoder), "conv": (ConvEncoder, ConvDecoder)}


PLANET_SIDE = 64


class PlanetEncoder(nn.Module):
    """Four k4 s2 convolutions without padding, ReLU, 64x64 -> 8 * depth * 4 numbers (Ha & Schmidhuber 2018)."""

    def __init__(self, image: tuple[int, int, int], depth: int) -> None:
        super().__init__()
        _planet_size(image)
        widths = [image[0], depth, 2 * depth, 4 * depth, 8 * depth]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.out = 4 * widths[-1]

    def forward(self, image: Float[Tensor, "*B C Y X"]) -> Float[Tensor, "*B E"]:
        x = image.reshape(-1, *image.shape[-3:])
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.reshape(*image.shape[:-3], -1)


class PlanetDecoder(nn.Module):
    """One dense layer, then transposed convolutions k5, k5, k6, k6 with stride 2 (Ha & Schmidhuber 2018)."""

    def __init__(self, image: tuple[int, int, int], size: int, depth: int) -> None:
        super().__init__()
        _planet_size(image)
        widths, kernels = [32 * depth, 4 * depth, 2 * depth, depth, image[0]], (5, 5, 6, 6)
        self.dense = nn.Linear(size, widths[0])
        pairs = zip(widths[:-1], widths[1:], kernels, strict=True)
        self.layers = nn.ModuleList(nn.ConvTranspose2d(a, b, k, 2) for a, b, k in pairs)

    def forward(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B C Y X"]:
        x = self.dense(feat.reshape(-1, feat.shape[-1]))[:, :, None, None]
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        x = self.layers[-1](x)
        return x.reshape(*feat.shape[:-1], *x.shape[-3:])


def _initialized(layer: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> nn.Module:
    trunc_normal(layer.weight, fan_in)
    return layer


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)

    def forward(self, x: Float[Tensor, "N C Y X"]) -> Float[Tensor, "N C Y X"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DreamerEncoder(nn.Module):
    """Four k4 s2 "same" convolutions, doubling channels, channel LayerNorm, SiLU; 64x64 -> 16 * 8 * depth numbers."""

    def __init__(self, image: tuple[int, int, int], depth: int) -> None:
        super().__init__()
        _dreamer_size(image)
        widths = [image[0], depth, 2 * depth, 4 * depth, 8 * depth]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.layers = nn.ModuleList(_initialized(nn.Conv2d(a, b, 4, 2, 1, bias=False), 16 * a) for a, b in pairs)
        self.norms = nn.ModuleList(ChannelNorm(b) for _, b in pairs)
        self.out = widths[-1] * (image[1] // 16) * (image[2] // 16)

    def forward(self, image: Float[Tensor, "*B C Y X"]) -> Float[Tensor, "*B E"]:
        x = image.reshape(-1, *image.shape[-3:])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nn.functional.silu(norm(layer(x)))
        return x.reshape(*image.shape[:-3], -1)


class DreamerDecoder(nn.Module):
    """The reverse of DreamerEncoder: dense, three k4 s2 transposed convolutions with norm and SiLU, one without."""

    def __init__(self, image: tuple[int, int, int], size: int, depth: int) -> None:
        super().__init__()
        _dreamer_size(image)
        widths = [8 * depth, 4 * depth, 2 * depth, depth, image[0]]
        self.start = (widths[0], image[1] // 16, image[2] // 16)
        self.dense = nn.Linear(size, widths[0] * self.start[1] * self.start[2])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        layers = [(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=i == 3), 4 * a) for i, (a, b) in enumerate(pairs)]
        self.layers = nn.ModuleList(
            _initialized(*layer) for layer in layers
        )  # each output pixel gets 4 of 16 kernel taps, so fan_in = 4 C
        self.norms = nn.ModuleList(ChannelNorm(b) for _, b in pairs[:-1])

    def forward(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B C Y X"]:
        x = self.dense(feat.reshape(-1, feat.shape[-1])).reshape(-1, *self.start)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = nn.functional.silu(norm(layer(x)))
        x = self.layers[-1](x)
        return x.reshape(*feat.shape[:-1], *x.shape[-3:])


def _planet_size(image: tuple[int, int, int]) -> None:
    if image[1:] != (PLANET_SIDE, PLANET_SIDE):
        raise UserError(
            f"image size {image[1]}x{image[2]}: the 'planet' networks take 64x64 only; "
            "resize the observations, or choose encoder=dreamer (multiples of 16)"
        )


def _dreamer_size(image: tuple[int, int, int]) -> None:
    if image[1] % 16 or image[2] % 16 or min(image[1:]) < 16:
        raise UserError(
            f"image size {image[1]}x{image[2]}: the 'dreamer' networks take multiples of 16 pixels (such as 64x64); "
            "resize the observations"
        )


PAPER_NETS = {"planet": (PlanetEncoder, PlanetDecoder), "dreamer": (DreamerEncoder, DreamerDecoder)}


def _image_encoder(kind: str, image: tuple[int, int, int], depth: int, embed: int, hidden: int) -> tuple[Any, int]:
    """The encoder and the size of its output."""
    if kind in PAPER_NETS:
        encoder = PAPER_NETS[kind][0](image, depth)
        return encoder, encoder.out
    return ENCODERS[kind][0](image, embed, depth, hidden), embed


def _image_decoder(kind: str, image: tuple[int, int, int], size: int, depth: int, hidden: int) -> Any:
    return (
        PAPER_NETS[kind][1](image, size, depth) if kind in PAPER_NETS else ENCODERS[kind][1](image, size, depth, hidden)
    )


class ObsEncoder(nn.Module):
    """{'image': floats around 0, name: vector} -> embedding (..., E); `out` is E.

    `embed` is the output size of a patch or conv encoder, and of the MLP of each vector; `vectors` configures those
    MLPs, and its `hidden` is also the width inside the image encoder.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], kind: str, depth: int, embed: int, vectors: MLPConfig
    ) -> None:
        super().__init__()
        self.parts, self.out = nn.ModuleDict(), 0
        for name, shape in shapes.items():
            if name == "image":
                c, y, x = shape
                self.parts[name], size = _image_encoder(kind, (c, y, x), depth, embed, vectors.hidden)
            else:
                self.parts[name], size = MLP(prod(shape), embed, vectors), embed
            self.out += size

    def forward(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*B E"]:
        codes = [part(obs[name]) for name, part in self.parts.items()]
        return codes[0] if len(codes) == 1 else torch.cat(codes, -1)


class ObsDecoder(nn.Module):
    """Features (..., F) -> {'image': floats around 0, name: vector}: the means of unit-variance Gaussians."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], kind: str, size: int, depth: int, vectors: MLPConfig
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for name, shape in shapes.items():
            if name == "image":
                c, y, x = shape
                self.parts[name] = _image_decoder(kind, (c, y, x), size, depth, vectors.hidden)
            else:
                self.parts[name] = MLP(size, prod(shape), vectors)

    def image(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B C Y X"]:
        """The image alone."""
        return self.parts["image"](feat)

    def vectors(self, feat: Float[Tensor, "*B F"]) -> dict[str, Tensor]:
        """Everything but the image."""
        return {name: part(feat) for name, part in self.parts.items() if name != "image"}

    def forward(self, feat: Float[Tensor, "*B F"]) -> dict[str, Tensor]:
        return {name: part(feat) for name, part in self.parts.items()}
