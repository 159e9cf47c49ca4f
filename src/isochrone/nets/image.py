"""The image networks of the state-space papers: PlaNet's and Dreamer's. Images are floats around 0, (..., C, Y, X)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.nets.norms import trunc_normal

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


def _started(layer: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> nn.Module:
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
        self.layers = nn.ModuleList(_started(nn.Conv2d(a, b, 4, 2, 1, bias=False), 16 * a) for a, b in pairs)
        self.norms = nn.ModuleList(ChannelNorm(b) for _, b in pairs)
        self.out = widths[-1] * (image[1] // 16) * (image[2] // 16)

    def forward(self, image: Float[Tensor, "*B C Y X"]) -> Float[Tensor, "*B E"]:
        x = image.reshape(-1, *image.shape[-3:])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nn.functional.silu(norm(layer(x)))
        return x.reshape(*image.shape[:-3], -1)


class DreamerDecoder(nn.Module):
    """The encoder's mirror: dense, three k4 s2 transposed convolutions with norm and SiLU, one without."""

    def __init__(self, image: tuple[int, int, int], size: int, depth: int) -> None:
        super().__init__()
        _dreamer_size(image)
        widths = [8 * depth, 4 * depth, 2 * depth, depth, image[0]]
        self.start = (widths[0], image[1] // 16, image[2] // 16)
        self.dense = nn.Linear(size, widths[0] * self.start[1] * self.start[2])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        layers = [(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=i == 3), 4 * a) for i, (a, b) in enumerate(pairs)]
        self.layers = nn.ModuleList(_started(*layer) for layer in layers)  # a pixel hears 2 x 2 of the 4 x 4 taps
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


IMAGE = {"planet": (PlanetEncoder, PlanetDecoder), "dreamer": (DreamerEncoder, DreamerDecoder)}
