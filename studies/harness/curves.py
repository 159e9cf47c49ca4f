"""Learning curves of a study: what was earned while learning, each seed and their mean, one panel per role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from studies.harness.aggregate import value

from isochrone.core.files import atomic_write
from isochrone.evals.figures.style import Theme, png, styled, theme

Results = Sequence[Mapping[str, Any]]


def path_of(root: Path, name: str) -> Path:
    """Where the figure of a study lies: beside the page that shows it."""
    return root / "docs" / f"evidence-{name.replace('_', '-')}.png"


def told(roles: Mapping[str, Results]) -> dict[str, Results]:
    """The results with a curve, by role; roles without any are left out."""
    having = {role: [r for r in results if len(r.get("curve", ())) > 1] for role, results in roles.items()}
    return {role: results for role, results in having.items() if results}


def write(root: Path, name: str, roles: Mapping[str, Results], says: Mapping[str, str]) -> None:
    """Draw the curves of a study anew; without any there is no figure."""
    figure, path = curves({"roles": told(roles), "says": says}, "light"), path_of(root, name)
    if figure is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, png(figure))


@styled
def curves(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`roles`: {role: results}, `says`: {role: title}."""
    roles, t = arrays["roles"], theme(name)
    if not roles:
        return None
    figure = Figure(figsize=(4.2 * len(roles) + 0.8, 3.9))
    for ax, (role, results) in zip(figure.subplots(1, len(roles), squeeze=False)[0], roles.items(), strict=True):
        _panel(ax, results, t)
        ax.set_title(arrays["says"][role], fontsize=10)
    named = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    columns = len(roles) + 1  # below the panels: inside them it would lie on the floors
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _panel(ax: Axes, results: Results, t: Theme) -> None:
    series = [np.asarray(r["curve"], float) for r in results]
    for curve in series:
        ax.plot(curve[:, 0], curve[:, 1], color=t.cycle[0], lw=1, alpha=0.35)
    short = min(map(len, series))
    mean = np.mean([curve[:short] for curve in series], 0)
    ax.plot(mean[:, 0], mean[:, 1], color=t.cycle[0], label="while learning: seeds and their mean")
    earned = [value(r, f"return.{r['config']['planner']['name']}") for r in results]
    ends = [(curve[-1, 0], last) for curve, last in zip(series, earned, strict=True) if last is not None]
    if ends:
        ax.scatter(*zip(*ends, strict=True), s=22, color=t.cycle[2], zorder=3, label="at the end, without noise")
    for key, style, says in (
        ("random", ":", "acting at random"),
        ("noop", "-.", "doing nothing"),
        ("oracle", "--", "best possible"),
    ):
        there = [found for r in results if (found := value(r, f"return.{key}")) is not None]
        if there:
            ax.axhline(float(np.mean(there)), color=t.cycle[1], ls=style, lw=1.4, label=says)
    ax.locator_params(axis="x", nbins=6)  # numbers of five digits would touch
    ax.set_xlabel("frames seen")
    ax.set_ylabel("return of an episode")
