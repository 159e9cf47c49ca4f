"""Image encoders and decoders that keep position: they end in a flatten, never in a global average pool.

`patch`: one linear map per 4x4 patch, then two dense layers: a few matrix products, made for small scenes on a CPU.
`conv`: the usual four strided convolutions (Ha & Schmidhuber 2018, as in PlaNet), for everything else.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.core.pixels import as_float


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
        # No biases before the norm: an empty patch is exactly 0, so a small box is not drowned by a large black scene.
        self.patch = nn.Linear(c * self.unit**2, depth, bias=False)
        self.dense = nn.Linear(depth * (y // self.unit) * (x // self.unit), hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, out)

    def forward(self, image: Tensor) -> Float[Tensor, "... F"]:
        c, y, x = self.image
        lead, u = image.shape[:-3], self.unit
        if image.dtype == torch.uint8:  # the four bytes of a patch's row move as one
            words = image.contiguous().view(torch.int32).reshape(-1, c, y // u, u, x // u)
            tiles = words.permute(0, 2, 4, 1, 3).reshape(-1, (y // u) * (x // u), c * u).view(torch.uint8)
        else:
            tiles = image.reshape(-1, c, y // u, u, x // u, u).permute(0, 2, 4, 1, 3, 5)  # (N, y, x, C, u, u)
            tiles = tiles.reshape(-1, (y // u) * (x // u), c * u * u)
        # Floats last: what was permuted is a quarter of the bytes.
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
        self.base = nn.Parameter(torch.zeros(c, y, x))  # what never moves is not the code's business

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
    """The encoder's mirror: one dense layer, then four transposed convolutions."""

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
