"""Encoders keep position, take every size they say, and refuse the others with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.nets.image import ENCODERS

SIZES = {"patch": [(4, 4), (8, 20), (64, 64)], "conv": [(16, 16), (32, 48), (64, 64)]}
BAD = {"patch": [(63, 64), (64, 66), (2, 4)], "conv": [(64, 72), (60, 64), (8, 16)]}


def pair(kind: str, y: int = 64, x: int = 64, channels: int = 3) -> tuple[Any, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, decoder = ENCODERS[kind]
        return encoder((channels, y, x), 8, 4, 32), decoder((channels, y, x), 8, 4, 32)


def boxes(where: list[tuple[int, int]]) -> Tensor:
    image = torch.zeros(len(where), 3, 64, 64, dtype=torch.uint8)
    for frame, (x, y) in zip(image, where, strict=True):
        frame[:, y : y + 4, x : x + 4] = 255
    return image


@pytest.mark.parametrize(("kind", "y", "x"), [(k, *size) for k in SIZES for size in SIZES[k]])
def test_every_multiple_of_the_unit_is_taken(kind: str, y: int, x: int) -> None:
    encoder, decoder = pair(kind, y, x)
    image = torch.randint(256, (2, 3, 3, y, x), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    z = encoder(image)
    assert z.shape == (2, 3, 8)
    assert decoder(z).shape == (2, 3, 3, y, x)
    assert encoder(image[0, 0]).shape == (8,)
    assert decoder(z[0, 0]).shape == (3, y, x)
    torch.testing.assert_close(encoder(image[1, 2]), z[1, 2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "y", "x"), [(k, *size) for k in BAD for size in BAD[k]])
def test_other_sizes_are_refused(kind: str, y: int, x: int) -> None:
    for part in ENCODERS[kind]:
        with pytest.raises(UserError, match=f"image size {y}x{x}: the '{kind}' encoder takes multiples of"):
            part((3, y, x), 8, 4, 32)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_every_number_of_channels_is_accepted(kind: str, channels: int) -> None:
    encoder, decoder = pair(kind, 32, 32, channels)
    assert decoder(encoder(torch.zeros(2, channels, 32, 32))).shape == (2, channels, 32, 32)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_code_keeps_the_position(kind: str) -> None:
    """Boxes 4 px apart differ in their code, everywhere, even before training; a global pool could not tell."""
    encoder, _ = pair(kind)
    where = [(x, y) for x in range(0, 61, 12) for y in range(0, 61, 12)]
    beside = [(x + 4 if x < 60 else x - 4, y) for x, y in where]
    with torch.no_grad():
        here, there, blank = encoder(boxes(where)), encoder(boxes(beside)), encoder(boxes([(0, 0)]) * 0)
    assert (here - there).norm(dim=-1).min() > 0.02 * (here - blank).norm(dim=-1).mean()


@pytest.mark.parametrize("kind", ENCODERS)
def test_uint8_and_float_images_give_the_same_code(kind: str) -> None:
    encoder, _ = pair(kind)
    image = boxes([(8, 20), (40, 4)])
    torch.testing.assert_close(encoder(image), encoder(image.float() / 255))


def test_patches_keep_their_place() -> None:
    """Patch i sees its own 4x4 tile: change a tile, and only that code of the first layer changes."""
    encoder, _ = pair("patch", 16, 24)
    seen: list[Tensor] = []
    encoder.patch.register_forward_hook(lambda m, args, out: seen.append(out))
    image = torch.zeros(1, 3, 16, 24)
    encoder(image)
    image[0, 1, 9, 13] = 1.0  # row 2, column 3 of 4 x 6 tiles
    encoder(image)
    changed = (seen[0] != seen[1]).any(-1).flatten()
    assert changed.nonzero().flatten().tolist() == [2 * 6 + 3]


def test_the_patch_decoder_puts_patches_where_the_encoder_cut_them() -> None:
    _, decoder = pair("patch", 16, 24)
    image = torch.arange(3 * 16 * 24.0).reshape(3, 16, 24)
    tiles = image.reshape(3, 4, 4, 6, 4).permute(1, 3, 0, 2, 4).reshape(1, 24, 48)
    decoder.patch.register_forward_hook(lambda m, args, out: tiles)
    torch.testing.assert_close(decoder(torch.zeros(1, 8))[0], image)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_bias_image_alone_shows_what_never_moves(kind: str) -> None:
    """A standing background is learned by `base`, whatever the code."""
    _, decoder = pair(kind, 16, 16)
    with torch.no_grad():
        before = decoder(torch.zeros(8))
        decoder.base.fill_(0.5)
        torch.testing.assert_close(decoder(torch.zeros(8)), before + 0.5)
