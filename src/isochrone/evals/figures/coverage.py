"""Coverage: how often the recording was where, over the places of the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.field import grid_of, laid
from isochrone.evals.figures.isochrone import walls
from isochrone.evals.figures.style import ISOCHRONE, bare, has, styled


@register("figure", "coverage")
@styled
def coverage(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`recording.position` (B, T, 2) px over `reach.map_xy`."""
    if not has(arrays, "recording.position", "reach.map_xy"):
        return None
    xy, offset = np.asarray(arrays["reach.map_xy"]), np.asarray(arrays.get("reach.map_offset", np.zeros(2)))
    grid = grid_of(xy)
    seen = np.asarray(arrays["recording.position"]).reshape(-1, 2) + offset
    at = np.rint((seen - np.asarray(grid.origin)) / grid.pitch).astype(int)
    at = np.clip(at, 0, np.array(grid.shape)[::-1] - 1)
    count = np.zeros(grid.shape)
    np.add.at(count, (at[:, 1], at[:, 0]), 1)
    visits = count[grid.row, grid.column]
    figure = Figure(figsize=(10.6, 4.0))
    ax, curve = figure.subplots(1, 2)
    image = ax.imshow(laid(grid, visits), cmap=ISOCHRONE, vmin=0, extent=grid.extent, interpolation="nearest")
    walls(ax, grid, name)
    bare(ax)
    ax.set_title(f"Frames per place ({100 * (visits > 0).mean():.0f} % visited)")
    bar = figure.colorbar(image, ax=ax, shrink=0.75)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.grid(False)
    share = np.sort(visits)[::-1].cumsum() / max(visits.sum(), 1)
    curve.plot(100 * np.arange(1, len(share) + 1) / len(share), 100 * share)
    curve.plot([0, 100], [0, 100], color=curve.xaxis.label.get_color(), lw=1, ls="--")
    curve.set(xlabel="most visited places, %", title="Share of all frames, %", xlim=(0, 100), ylim=(0, 102))
    return figure
