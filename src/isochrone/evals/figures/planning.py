"""Planning: success of every agent beside its floors, success against distance, and the paths really walked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.field import grid_of
from isochrone.evals.figures.isochrone import walls
from isochrone.evals.figures.style import bare, has, styled, theme
from isochrone.evals.stats import wilson

FLOORS = ("replay", "noop", "random")
SHOWN = 6


@register("figure", "planning")
@styled
def planning(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`planning.{agents, success, shortest, paths, goals}`; floors are grey."""
    if not has(arrays, "planning.agents", "planning.success"):
        return None
    mapped = has(arrays, "planning.paths", "reach.map_xy")
    figure = Figure(figsize=(10.6, 3.9))
    axes = figure.subplots(1, 3 if mapped else 2, width_ratios=[1.15, 1, 1] if mapped else None)
    _bars(axes[0], arrays, name)
    _by_distance(axes[1], arrays, name)
    if mapped:
        _paths(axes[2], arrays, name)
    return figure


def _bars(ax: Axes, arrays: Mapping[str, Any], name: str) -> None:
    t, names, success = theme(name), [str(n) for n in arrays["planning.agents"]], np.asarray(arrays["planning.success"])
    for row, (agent, wins) in enumerate(zip(names, success, strict=True)):
        share, (low, high) = 100 * wins.mean(), wilson(int(wins.sum()), len(wins))
        colour = t.cycle[1] if agent in FLOORS else t.cycle[0]
        ax.barh(row, share, color=colour, height=0.62)
        ax.plot([100 * low, 100 * high], [row, row], color=t.ink, lw=1.6)
        ax.annotate(
            f"{share:.0f}", (max(share, 100 * high), row), (6, 0), textcoords="offset points", va="center", fontsize=9.5
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(
        xlim=(0, 113),
        xticks=[0, 25, 50, 75, 100],
        title="Goals reached, %",
        xlabel=f"of {success.shape[1]} pairs; 95 % interval",
    )
    ax.grid(axis="y", visible=False)


def _by_distance(ax: Axes, arrays: Mapping[str, Any], name: str) -> None:
    t, shortest = theme(name), np.asarray(arrays["planning.shortest"])
    edges = np.unique(np.quantile(shortest, np.linspace(0, 1, 7)).round())
    for index, (agent, wins) in enumerate(
        zip(arrays["planning.agents"], np.asarray(arrays["planning.success"]), strict=True)
    ):
        if str(agent) in ("replay", "noop"):
            continue
        groups = [(shortest >= a) & (shortest <= b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        points = [(shortest[g].mean(), 100 * wins[g].mean()) for g in groups if g.any()]
        floor = str(agent) in FLOORS
        colour = t.cycle[1] if floor else t.cycle[(0, 2, 3, 4)[index % 4]]
        if points:
            ax.plot(
                *zip(*points, strict=True),
                color=colour,
                ls="--" if floor else "-",
                marker="o",
                ms=3.5,
                label=str(agent),
            )
    ax.set(xlabel="shortest path, actions", title="… by distance, %", ylim=(-3, 108), xlim=(0, None))
    ax.legend(loc="best")


def _paths(ax: Axes, arrays: Mapping[str, Any], name: str) -> None:
    """The longest of the pairs, one colour each: ring = start, dot = goal, gap = pipe."""
    t, xy = theme(name), np.asarray(arrays["reach.map_xy"])
    offset = np.asarray(arrays.get("reach.map_offset", np.zeros(2)))
    grid = grid_of(xy)
    ax.imshow(np.zeros((1, 1, 4)), extent=grid.extent)
    walls(ax, grid, name)
    paths, goals = np.asarray(arrays["planning.paths"]) + offset, np.asarray(arrays["planning.goals"]) + offset
    order = np.argsort(-np.asarray(arrays["planning.shortest"]), kind="stable")
    picked = order[np.linspace(0, len(order) // 2, SHOWN).astype(int)] if len(order) >= SHOWN else order
    for k, pair in enumerate(picked):
        path = paths[pair][~np.isnan(paths[pair][:, 0])]
        jump = (
            np.abs(np.diff(path, axis=0)).max(-1, initial=0) > 2.6 * grid.pitch if len(path) > 1 else np.zeros(0, bool)
        )
        broken = np.insert(path, np.flatnonzero(jump) + 1, np.nan, axis=0)
        colour = t.cycle[(0, 2, 3, 4)[k % 4]]
        ax.plot(*broken.T, color=colour, lw=1.8, alpha=0.9, zorder=5)
        ax.plot(*path[0], "o", ms=6, mfc=t.paper, mec=colour, mew=1.6, zorder=6)
        ax.plot(*goals[pair], "o", ms=5, color=colour, zorder=6)
    bare(ax)
    ax.set_title(f"Paths of '{arrays.get('planning.paths_agent', 'agent')}'")
