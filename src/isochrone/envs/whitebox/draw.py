"""Pixels of the white-box environment: a still background, optional moving noise, and the box on top.

The box is the only white thing: walls, doors and pipe ends are faint, and noise never exceeds 160 of 255. The marks of
a task are coloured and stick out by a pixel, so that a box on a mark wears a frame of its colour. On the half-cell
lattice without noise every frame is one row of a table, and drawing is one copy; elsewhere the box is written into a
copy of the background.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from isochrone.core.buffers import Buffers
from isochrone.envs.whitebox.maps import CELLS, DOORS, Map
from isochrone.envs.whitebox.physics import PX

SIZE = CELLS * PX  # pixels per side of the frame
WHITE = 255
NOISE_PERIOD = 128  # px after which the noise pattern repeats
NOISE_PEAK = 160.0  # brightest noise at strength 1
SHADES = {"#": (40, 40, 40), "~": (10, 10, 34), "+": (10, 30, 10), "%": (26, 26, 26)}
PIPE_COLOURS = ((70, 20, 20), (20, 60, 20), (20, 30, 80), (60, 50, 10), (60, 15, 60), (10, 55, 60))


def background(drawing: Map) -> UInt8[Tensor, "3 64 64"]:
    """Everything but the box and the noise."""
    frame = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    order = sorted(set(drawing.letters.values()))
    for x, y in [(x, y) for y in range(CELLS) for x in range(CELLS)]:
        char, rows, columns = drawing[x, y], slice(y * PX, (y + 1) * PX), slice(x * PX, (x + 1) * PX)
        if char in SHADES:
            frame[:, rows, columns] = torch.tensor(SHADES[char], dtype=torch.uint8)[:, None, None]
        elif char in DOORS:
            frame[:, rows, columns] = _door(DOORS[char])
        elif (x, y) in drawing.letters:
            colour = PIPE_COLOURS[order.index(drawing.letters[x, y]) % len(PIPE_COLOURS)]
            frame[:, rows, columns] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
            if (x, y) not in drawing.pipes:  # an exit nobody can enter: a frame with a dark middle
                frame[:, y * PX + 1 : y * PX + 3, x * PX + 1 : x * PX + 3] = 0
    return frame


def _door(direction: int) -> UInt8[Tensor, "3 4 4"]:
    """A ramp that brightens towards where the door leads."""
    ramp = torch.tensor([14, 24, 36, 50], dtype=torch.uint8)
    tile = ramp[:, None].expand(PX, PX) if direction < 2 else ramp[None, :].expand(PX, PX)
    tile = tile.flip(0) if direction == 0 else tile.flip(1) if direction == 2 else tile
    return torch.stack((tile, tile // 2, torch.zeros_like(tile)))


def texture(rng: torch.Generator) -> UInt8[Tensor, "3 191 191"]:
    """A smooth periodic pattern, continued by one frame so that every window lies inside."""
    waves = torch.randn(3, NOISE_PERIOD, NOISE_PERIOD, generator=rng)
    freq = torch.fft.fftfreq(NOISE_PERIOD) * NOISE_PERIOD
    falloff = torch.exp(-(freq[:, None] ** 2 + freq[None, :] ** 2) / (2 * 10.0**2))  # blobs of about a cell
    smooth = torch.fft.ifft2(torch.fft.fft2(waves) * falloff).real
    smooth = smooth / smooth.std()
    tile = torch.sigmoid(1.5 * smooth)  # (3, 128, 128) in (0, 1)
    index = torch.arange(NOISE_PERIOD + SIZE - 1) % NOISE_PERIOD
    return (tile[:, index][:, :, index] * NOISE_PEAK).round().to(torch.uint8)


class Canvas:
    """Draws boxes on one map."""

    def __init__(self, drawing: Map, noise: float = 0.0, device: torch.device | str = "cpu") -> None:
        """`noise` in [0, 1] is the strength of the moving background (0: none)."""
        self.background = background(drawing).to(device)
        hidden = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for x, y in drawing.cells("%"):
            hidden[y * PX : (y + 1) * PX, x * PX : (x + 1) * PX] = True
        self.hidden = hidden.flatten().to(device)
        self.covers = bool(hidden.any())
        self.noise = noise
        self._lines: Tensor | None = None  # (3 * 191 * 128, 64) every 64 px piece of every line of the pattern
        if noise > 0:
            # The pattern belongs to the environment, as the map does: its seed is fixed.
            pattern = texture(torch.Generator().manual_seed(0)) * noise
            lines = pattern.round().to(torch.uint8).unfold(2, SIZE, 1)  # (3, 191, 128, 64)
            self._lines = lines.reshape(-1, SIZE).to(device)
            line = torch.arange(3)[:, None] * (NOISE_PERIOD + SIZE - 1) + torch.arange(SIZE)
            self._first = (line * NOISE_PERIOD).flatten().to(device)  # (3 * 64,) the lines of the window at 0, 0
        offset = torch.arange(PX)
        self._pixels = (offset[:, None] * SIZE + offset[None, :]).flatten().to(device)  # (16,) inside one channel
        edge = torch.arange(-1, PX + 1)  # a mark sticks out by 1 px, so that a box on top does not hide it
        self._edge = torch.stack((edge.repeat_interleave(PX + 2), edge.repeat(PX + 2)), -1).to(device)  # (36, 2) y, x
        self._buffers = Buffers()
        self._table: Tensor | None = None
        self._slot: Tensor | None = None

    def tabulate(self, where: Float[Tensor, "P 2"], stands: Tensor) -> None:
        """Prepare one frame per place where a box can stand, for `lookup`."""
        keep = stands.nonzero().flatten()
        self._slot = torch.zeros(len(stands), dtype=torch.long, device=stands.device)
        self._slot[keep] = torch.arange(len(keep), device=stands.device)
        self._table = self.paint(where[keep]).flatten(1)

    def lookup(self, numbers: Int[Tensor, "*B"], out: Tensor | None = None) -> UInt8[Tensor, "*B 3 64 64"]:
        """Frames of lattice positions, copied from the table."""
        assert self._table is not None and self._slot is not None
        rows = self._slot[numbers.flatten()]
        frames = self._canvas(len(rows), out)
        torch.index_select(self._table, 0, rows, out=frames.view(len(rows), -1))
        return frames.view(*numbers.shape, 3, SIZE, SIZE)

    def _canvas(self, count: int, out: Tensor | None) -> UInt8[Tensor, "N 3 64 64"]:
        """Memory to draw on: the caller's `out`, or memory that nothing else refers to."""
        if out is not None:
            return out.view(count, 3, SIZE, SIZE)
        if self.background.device.type == "cpu":
            return torch.from_numpy(self._buffers.take((count, 3, SIZE, SIZE), np.uint8))
        return self.background.new_empty(count, 3, SIZE, SIZE)

    def paint(
        self, position: Float[Tensor, "*B 2"], offset: Int[Tensor, "*B 2"] | None = None, out: Tensor | None = None
    ) -> UInt8[Tensor, "*B 3 64 64"]:
        """Boxes at any position (to the nearest pixel); `offset` is where each noise window begins (y, x)."""
        shape, position = position.shape[:-1], position.reshape(-1, 2)
        count = position.shape[0]
        frames = self._canvas(count, out)
        if self._lines is None:
            frames.copy_(self.background.expand(count, -1, -1, -1))
        else:
            assert offset is not None
            begin = (offset[..., 0] * NOISE_PERIOD + offset[..., 1]).reshape(-1, 1)
            torch.index_select(self._lines, 0, (begin + self._first).flatten(), out=frames.view(-1, SIZE))
            torch.maximum(frames, self.background, out=frames)
            if self.covers:  # an occluder is opaque to the noise too
                frames.view(count, 3, -1)[:, :, self.hidden] = self.background.view(3, -1)[:, self.hidden]
        self._box(frames, position)
        return frames.view(*shape, 3, SIZE, SIZE)

    def mark(
        self,
        frames: UInt8[Tensor, "*B 3 64 64"],
        position: Float[Tensor, "*B 2"],
        cells: Int[Tensor, "*B M"],
        left: Bool[Tensor, "*B M"],
        colours: UInt8[Tensor, "M 3"],
    ) -> UInt8[Tensor, "*B 3 64 64"]:
        """Lay marks under the boxes of finished frames, in place: each a square round its cell, the first on top."""
        many = cells.shape[-1]
        cells, position = cells.reshape(-1, many), position.reshape(-1, 2)
        corner = torch.stack((cells // CELLS, cells % CELLS), -1) * PX  # (B, M, 2) y, x
        place = (corner[..., None, :] + self._edge).clamp(0, SIZE - 1)
        pixel = place[..., 0] * SIZE + place[..., 1]  # (B, M, 36)
        shows = left.reshape(-1, many, 1) & ~self.hidden[pixel]
        flat = frames.view(-1, 3, SIZE * SIZE)
        for m in reversed(range(many)):
            row, which = shows[:, m].nonzero(as_tuple=True)
            flat[row, :, pixel[row, m, which]] = colours[m]
        self._box(frames.view(-1, 3, SIZE, SIZE), position)
        return frames

    def _box(self, frames: UInt8[Tensor, "N 3 64 64"], position: Float[Tensor, "N 2"]) -> None:
        """Write one box on each frame, but for what an occluder hides of it."""
        count = len(frames)
        corner = position.round().long()
        pixel = (corner[:, 1] * SIZE + corner[:, 0])[:, None] + self._pixels  # (B, 16) in one channel
        start = torch.arange(count, device=position.device)[:, None] * (3 * SIZE * SIZE)
        channel = torch.arange(3, device=position.device)[:, None, None] * (SIZE * SIZE)
        flat = frames.view(-1)
        index = start + pixel + channel  # (3, B, 16)
        if self.covers:
            index = index[:, ~self.hidden[pixel]]
        flat[index.flatten()] = WHITE
