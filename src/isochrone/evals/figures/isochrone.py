"""The isochrone map: lines of equal distance in actions from one place, as the model believes and as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from isochrone.core.registry import register
from isochrone.evals.figures.field import Grid, cliffs, fine, grid_of, laid
from isochrone.evals.figures.style import ERROR, ISOCHRONE, bare, has, styled, theme

LINES = 11
"""About how many isochrones to draw."""
PIPE = "#e4572e"


@register("figure", "isochrone")
@styled
def isochrone(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """Prediction (large), truth (large), error (small), from `reach.map_*`."""
    if not has(arrays, "reach.map_xy", "reach.map_p", "reach.map_true"):
        return None
    grid = grid_of(np.asarray(arrays["reach.map_xy"]))
    guess, true = np.asarray(arrays["reach.map_p"], float), np.asarray(arrays["reach.map_true"], float)
    guess = np.where(np.isfinite(true), guess, np.nan)
    farthest = np.nanmax(np.where(np.isfinite(true), true, np.nan))
    step = line_step(farthest)
    top = max(farthest, min(np.nanmax(guess), 1.5 * farthest))  # a belief gone astray must not flatten the scale
    levels = np.arange(step, top + step, step) + 0.5  # between the cells that need k and k + 1 actions
    wide = grid.shape[1] / grid.shape[0]
    figure = Figure(figsize=(10.6, min(6.6, 1.25 + 4.1 / wide)))
    layout = figure.add_gridspec(2, 3, width_ratios=[1, 1, 0.56], height_ratios=[1, 0.045])
    left, middle = figure.add_subplot(layout[0, 0]), figure.add_subplot(layout[0, 1])
    right = figure.add_subplot(layout[0, 2])
    norm = BoundaryNorm(np.r_[-0.5, levels], ISOCHRONE.N, extend="max")
    image = None
    for ax, value, title in ((left, guess, "What the model believes"), (middle, true, "What is true")):
        image = panel(ax, grid, value, levels, norm, name)
        marks(ax, grid, arrays, name)
        ax.set_title(title)
    _error(figure, right, layout[1, 2], grid, guess - np.where(np.isfinite(true), true, np.nan), name)
    bar = figure.colorbar(image, cax=figure.add_subplot(layout[1, :2]), orientation="horizontal", ticks=levels)
    bar.ax.set_xticklabels([f"{v - 0.5:.0f}" for v in levels])
    bar.set_label("fewest actions from the marked start")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.grid(False)
    return figure


def line_step(top: float) -> int:
    """Actions between two isochrones: a round number that gives about `LINES` of them."""
    wanted = max(1.0, top / LINES)
    return int(next(s for s in (1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 10**6) if s >= wanted * 0.8))


def panel(ax: Axes, grid: Grid, value: np.ndarray, levels: np.ndarray, norm: Any, name: str) -> Any:
    """One field in bands, its isochrones labelled, and the walls over it."""
    raster = fine(laid(grid, np.where(np.isfinite(value), value, np.nan)))
    left, right, bottom, top = grid.extent
    image = ax.imshow(
        np.ma.masked_invalid(raster), cmap=ISOCHRONE, norm=norm, extent=grid.extent, interpolation="nearest"
    )
    size_y, size_x = raster.shape
    x = left + (np.arange(size_x) + 0.5) * (right - left) / size_x
    y = top + (np.arange(size_y) + 0.5) * (bottom - top) / size_y
    inner = levels[(levels > np.nanmin(raster)) & (levels < np.nanmax(raster))]
    if len(inner):
        smooth = np.ma.masked_where(np.isnan(raster) | cliffs(raster), raster)
        lines = ax.contour(x, y, smooth, levels=inner, colors="#12283c", linewidths=0.9, alpha=0.75)
        for label in ax.clabel(lines, fmt=lambda v: f"{v - 0.5:.0f}", fontsize=7.5, inline=True, inline_spacing=2):
            label.set_path_effects([effects.withStroke(linewidth=2.2, foreground="#ffffff")])
            label.set_color("#12283c")
    walls(ax, grid, name)
    bare(ax)
    ax.set_anchor("N")
    return image


def walls(ax: Axes, grid: Grid, name: str) -> None:
    """Everything where the box cannot rest."""
    solid = np.isnan(laid(grid, np.zeros(len(grid.row))))
    cover = np.zeros((*solid.shape, 4))
    wall = theme(name).wall
    cover[solid] = [int(wall[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0]
    ax.imshow(cover, extent=grid.extent, interpolation="nearest", zorder=3)
    half = grid.pitch / 2  # keep half of the border cell as a frame
    left, right, bottom, top = grid.extent
    ax.set_xlim(left + half, right - half)
    ax.set_ylim(bottom - half, top + half)


def marks(ax: Axes, grid: Grid, arrays: Mapping[str, Any], name: str) -> None:
    """The start, the pipes (entrance ring, dashed way, arrow at the exit) and the one-way passages (small arrows)."""
    xy = np.asarray(arrays["reach.map_xy"])
    for mouth, out, both in pipes_of(arrays):
        ax.add_patch(
            FancyArrowPatch(
                tuple(mouth), tuple(out), arrowstyle="-" if both else "-|>", mutation_scale=11,
                connectionstyle="arc3,rad=0.14", color=PIPE, linewidth=1.2, linestyle=(0, (4, 3)), shrinkA=4, shrinkB=4,
                zorder=5, alpha=0.9,
            )
        )  # fmt: skip
        for end in (mouth, out) if both else (mouth,):
            ax.plot(*end, "o", ms=6, mfc="#ffffff", mec=PIPE, mew=1.6, zorder=6)
    for a, b in passages(np.asarray(arrays.get("reach.map_one_way", np.zeros((0, 2), int)))):
        way = xy[b] - xy[a]
        ax.annotate(
            "", xy=tuple(xy[a] + 0.95 * way), xytext=tuple(xy[a] + 0.05 * way), zorder=6,
            arrowprops={"arrowstyle": "-|>", "color": PIPE, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    start = xy[int(arrays["reach.map_source"])]
    ax.plot(*start, "o", ms=11, mfc="#ffffff", mec="#12283c", mew=1.8, zorder=7)
    ax.plot(*start, "o", ms=4.5, mfc="#12283c", mec="none", zorder=8)


def passages(steps: np.ndarray) -> list[tuple[int, int]]:
    """Join one-way steps that follow each other (into a door, out of a door) to one passage."""
    onward = {int(a): int(b) for a, b in steps}
    joined = []
    for a in sorted(onward.keys() - set(onward.values())):
        b = onward[a]
        while b in onward:
            b = onward[b]
        joined.append((a, b))
    return joined


def pipes_of(arrays: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """(mouth, exit, both ways?) in px. A pipe whose exit is another one's mouth comes once, as a two-way pipe."""
    xy = np.asarray(arrays["reach.map_xy"])
    mouth = np.asarray(arrays.get("reach.map_pipe_mouth", np.zeros((0, 2))))
    end = np.asarray(arrays.get("reach.map_pipe_to", [])).astype(int)
    pipes: list[tuple[np.ndarray, np.ndarray, bool]] = []
    for k in np.unique(end[end >= 0]):
        begin, out = np.median(mouth[end == k], axis=0), xy[k]
        twin = [i for i, (a, b, _) in enumerate(pipes) if np.allclose(a, out, atol=1) and np.allclose(b, begin, atol=1)]
        if twin:
            pipes[twin[0]] = (*pipes[twin[0]][:2], True)
        else:
            pipes.append((begin, out, False))
    return pipes


def _error(figure: Figure, ax: Axes, place: Any, grid: Grid, error: np.ndarray, name: str) -> None:
    bound = max(1.0, float(np.nanmax(np.abs(error))))
    image = ax.imshow(
        laid(grid, error), cmap=ERROR, vmin=-bound, vmax=bound, extent=grid.extent, interpolation="nearest"
    )
    walls(ax, grid, name)
    bare(ax)
    ax.set_anchor("N")
    ax.set_title(f"Error, mean {np.nanmean(np.abs(error)):.2f} actions", fontsize=10)
    bar = figure.colorbar(image, cax=figure.add_subplot(place), orientation="horizontal", ticks=[-bound, 0, bound])
    bar.ax.set_xticklabels([f"-{bound:.1f}", "0", f"+{bound:.1f}"])
    bar.set_label("believed minus true")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.grid(False)
