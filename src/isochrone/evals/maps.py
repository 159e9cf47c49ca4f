"""Fields over the places of a map, interpolated without crossing walls; shared by the figures that draw maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes

from isochrone.evals.figure import THEMES

FINE = 9
"""Samples per cell side (odd, so that one lies in the middle)."""
JUMP = 2.5
"""Neighbours that differ by more actions than this are not joined: a one-way door or a pipe's mouth lies between."""


class Grid(NamedTuple):
    """The coarsest square grid that contains all places."""

    column: np.ndarray  # (C,) int
    row: np.ndarray  # (C,) int
    shape: tuple[int, int]  # rows, columns, with one empty cell all round
    pitch: float  # px
    origin: tuple[float, float]  # px of the centre of cell (0, 0), x then y

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top in px, for imshow with rows running down."""
        x, y, half = *self.origin, self.pitch / 2
        rows, columns = self.shape
        return x - half, x + (columns - 0.5) * self.pitch, y + (rows - 0.5) * self.pitch, y - half


def grid_of(xy: Real[np.ndarray, "C 2"]) -> Grid:
    """The grid on which places at these pixels lie."""
    pitch = np.inf
    for axis in (0, 1):
        gaps = np.diff(np.unique(np.round(xy[:, axis], 3)))
        pitch = min(pitch, gaps[gaps > 0.25].min(initial=np.inf))
    pitch = float(pitch) if np.isfinite(pitch) else 4.0
    low = xy.min(0)
    at = np.rint((xy - low) / pitch).astype(int) + 1
    rows, columns = int(at[:, 1].max()) + 2, int(at[:, 0].max()) + 2
    return Grid(at[:, 0], at[:, 1], (rows, columns), pitch, (float(low[0] - pitch), float(low[1] - pitch)))


def on_grid(grid: Grid, value: Real[np.ndarray, " C"]) -> Float[np.ndarray, "R K"]:
    """Values on the grid, NaN where there is no place."""
    out = np.full(grid.shape, np.nan)
    out[grid.row, grid.column] = value
    return out


def fine(coarse: Float[np.ndarray, "R K"], jump: float = JUMP) -> Float[np.ndarray, "Y X"]:
    """Interpolate inside free cells only. Going on straight replaces a neighbour that is a wall, or too different."""
    padded = np.pad(coarse, 1, constant_values=np.nan)
    rows, columns = coarse.shape

    def shifted(dy: int, dx: int) -> np.ndarray:
        return padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]

    def joined(value: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(value - coarse) <= jump, value, np.nan)

    def neighbour(dy: int, dx: int) -> np.ndarray:
        near, far = joined(shifted(dy, dx)), joined(shifted(-dy, -dx))
        straight = np.where(np.isnan(far), coarse, 2 * coarse - far)
        return np.where(np.isnan(near), straight, near)

    out = np.full((rows, FINE, columns, FINE), np.nan)
    offset = (np.arange(FINE) - FINE // 2) / FINE
    for i, v in enumerate(offset):
        vertical = neighbour(1 if v >= 0 else -1, 0)
        for j, u in enumerate(offset):
            sideways = neighbour(0, 1 if u >= 0 else -1)
            corner = joined(shifted(1 if v >= 0 else -1, 1 if u >= 0 else -1))
            corner = np.where(np.isnan(corner), vertical + sideways - coarse, corner)
            a, b = abs(v), abs(u)
            out[:, i, :, j] = (1 - a) * ((1 - b) * coarse + b * sideways) + a * ((1 - b) * vertical + b * corner)
    return out.reshape(rows * FINE, columns * FINE)


def cliffs(raster: np.ndarray, steep: float = 0.6) -> np.ndarray:
    """Where a fine field jumps: isochrones would only pile up there."""
    up, along = np.abs(np.diff(raster, axis=0)) > steep, np.abs(np.diff(raster, axis=1)) > steep
    out = np.zeros(raster.shape, bool)
    out[1:] |= up
    out[:-1] |= up
    out[:, 1:] |= along
    out[:, :-1] |= along
    return out


def walls(ax: Axes, grid: Grid, theme: str) -> None:
    """Cover everything where the box cannot rest."""
    solid = np.isnan(on_grid(grid, np.zeros(len(grid.row))))
    cover = np.zeros((*solid.shape, 4))
    wall = THEMES[theme].wall
    cover[solid] = [int(wall[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0]
    ax.imshow(cover, extent=grid.extent, interpolation="nearest", zorder=3)
    half = grid.pitch / 2  # keep half of the border cell as a frame
    left, right, bottom, top = grid.extent
    ax.set_xlim(left + half, right - half)
    ax.set_ylim(bottom - half, top + half)
