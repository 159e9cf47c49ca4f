"""The figure of a study: its metrics role by role, or the learning curves of its cells. Drawn from stored results."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isochrone.core.files import atomic_write
from isochrone.evals.figure import THEMES, Theme, png, styled
from studies.harness.aggregate import StudyResults, value

Results = Sequence[Mapping[str, Any]]
REFERENCES = (
    ("random", ":", "random actions"),
    ("noop", "-.", "no action"),
    ("oracle", "--", "best possible"),
)


def path_of(root: Path, name: str) -> Path:
    """Where the figure of a study lies: beside its page."""
    return root / "docs" / "evidence" / f"{name}.png"


def write(root: Path, results: StudyResults) -> None:
    """Draw the figure of a study; the file is removed while nothing is measured that it shows."""
    figure, path = draw(results), path_of(root, results.name)
    if figure is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, png(figure, 110))


def draw(results: StudyResults) -> Figure | None:
    """The study's figure; None while nothing is measured that it shows."""
    if results.study.figure:
        return metrics({"results": results}, "light")
    return curves({"roles": with_curves(results.roles), "titles": results.study.roles}, "light")


@styled
def metrics(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """One panel per metric of the study, one row per role: a dot per seed, a bar at the mean, the baseline and the
    target."""
    results, t = arrays["results"], THEMES[name]
    panels = {key: {role: line for role in results.roles if (line := results.line(role, key))}
              for key in results.study.figure}  # fmt: skip
    roles = [role for role in results.roles if any(role in panel for panel in panels.values())]
    if not roles:
        return None
    figure = Figure(figsize=(3.2 * len(panels) + 2.4, 0.46 * len(roles) + 1.5))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (key, panel) in zip(axes, panels.items(), strict=True):
        for role, line in panel.items():
            _row(ax, len(roles) - 1 - roles.index(role), line, [value(r, key) for r in results.roles[role]], t)
        label = next(iter(panel.values())).label.removeprefix("… ") if panel else key
        ax.set_title("\n".join(textwrap.wrap(label, 34)), fontsize=9.5)
        ax.locator_params(axis="x", nbins=5)
    labels = ["\n".join(textwrap.wrap(results.study.roles[role], 42)) for role in reversed(roles)]
    axes[0].set_yticks(range(len(roles)), labels, fontsize=9)
    axes[0].set_ylim(-0.6, len(roles) - 0.4)
    _legend(figure, t)
    return figure


def _row(ax: Axes, y: int, line: Any, seeds: Sequence[float | None], t: Theme) -> None:
    if line.baseline is not None:
        ax.plot([line.baseline] * 2, [y - 0.3, y + 0.3], color=t.cycle[1], lw=1.6, ls=":", label="baseline")
    if line.claim is not None:
        ax.plot([line.claim.target.limit] * 2, [y - 0.3, y + 0.3], color=t.cycle[2], lw=1.6, label="target")
    ax.plot([line.mean] * 2, [y - 0.22, y + 0.22], color=t.cycle[0], lw=3, label="mean")
    ax.scatter([s for s in seeds if s is not None], [y] * line.count, s=16, color=t.cycle[0], alpha=0.5, label="seed")


def _legend(figure: Figure, t: Theme) -> None:
    """Below the panels: inside them it would cover lines."""
    handles = {label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5, fontsize=8.5)


def with_curves(roles: Mapping[str, Results]) -> dict[str, Results]:
    """The results with a learning curve, by role; roles without any are left out."""
    curved = {role: [r for r in results if len(r.get("curve", ())) > 1] for role, results in roles.items()}
    return {role: results for role, results in curved.items() if results}


@styled
def curves(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """Episode return while learning, every seed and their mean. `roles`: {role: results}, `titles`: {role: title}."""
    roles, t = arrays["roles"], THEMES[name]
    if not roles:
        return None
    figure = Figure(figsize=(4.2 * len(roles) + 0.8, 3.9))
    for ax, (role, results) in zip(figure.subplots(1, len(roles), squeeze=False)[0], roles.items(), strict=True):
        _curves_of(ax, results, t)
        ax.set_title(arrays["titles"][role], fontsize=10)
    _legend(figure, t)
    return figure


def _curves_of(ax: Axes, results: Results, t: Theme) -> None:
    series = [np.asarray(r["curve"], float) for r in results]
    for curve in series:
        ax.plot(curve[:, 0], curve[:, 1], color=t.cycle[0], lw=1, alpha=0.35)
    length = min(map(len, series))
    mean = np.mean([curve[:length] for curve in series], 0)
    ax.plot(mean[:, 0], mean[:, 1], color=t.cycle[0], label="while learning: seeds and their mean")
    final = [value(r, f"return.{r['config']['agent']['planner']['name']}") for r in results]
    ends = [(curve[-1, 0], last) for curve, last in zip(series, final, strict=True) if last is not None]
    if ends:
        ax.scatter(*zip(*ends, strict=True), s=22, color=t.cycle[2], zorder=3, label="at the end, without noise")
    for key, style, label in REFERENCES:
        numbers = [number for r in results if (number := value(r, f"return.{key}")) is not None]
        if numbers:
            ax.axhline(float(np.mean(numbers)), color=t.cycle[1], ls=style, lw=1.4, label=label)
    ax.locator_params(axis="x", nbins=6)  # tick labels of five digits would touch
    ax.set_xlabel("frames collected")
    ax.set_ylabel("episode return")
