"""report.html of a run, from its results, figures, training curves and routes; and an evaluation's terminal table."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isochrone.core import gate
from isochrone.core.config import to_dict
from isochrone.core.errors import printable
from isochrone.core.registry import get
from isochrone.evals import metric as declarations
from isochrone.evals.report import agent_table, measured_rows, write_report
from isochrone.evals.store import curves
from isochrone.evals.suite import Results
from isochrone.recipes.schema import Config
from isochrone.training.device import compute_settings
from isochrone.training.run import Run
from isochrone.workflows.evaluate import newest_figures
from isochrone.workflows.loaded_run import LoadedRun, load
from isochrone.workflows.routes import measure_routes, to_text

WIDTH = 80
"""Columns of the terminal table."""


def report(path: Path, trust: bool = False, out: Path | None = None) -> Path:
    """Write RUN/report.html, or `out`, from the last evaluation; only the gradient routes are computed anew."""
    trained = load(path, trust=trust)
    run = trained.run
    stored = run.results()
    light, dark = newest_figures(run.path / "figures")
    images, dark_images = dict[str, Any](light), dict[str, Any](dark)
    if gate.exists(run.metrics):
        training, arrays = get("figure", "training"), curves(run.rows())
        for theme, into in (("light", images), ("dark", dark_images)):
            if (figure := training(arrays, theme)) is not None:
                into["training"] = figure
    meta = {
        "title": run.path.name,
        "about": _about(trained.config, stored.get("about", {})),
        "config": run.config,
        "versions": _versions(run),
        "routes": _routes(trained),
    }
    return write_report(out or run.path / "report.html", stored.get("results", {}), images, meta, dark_images)


def _about(config: Config, about: dict[str, Any]) -> str:
    env = about.get("env") or to_dict(config.env)
    name = " ".join(str(env[k]) for k in ("name", "map", "id") if env.get(k))
    parts = [f"recipe {config.recipe}", f"env {name}", f"training seed {config.train.seed}"]
    if "step" in about:
        parts.append(f"evaluated at step {about['step']}")
    else:
        parts.append("not evaluated yet: run isochrone eval, then report again")
    return " · ".join(parts)


def _versions(run: Run) -> dict[str, Any]:
    stored = run.versions()
    flat = {k: stored.get(k) for k in ("code", "commit", "python", "threads")}
    flat |= stored.get("packages", {}) | stored.get("machine", {})
    resumed = len(stored.get("resumed", []))
    return {k: v for k, v in flat.items() if v is not None} | ({"resumed": f"{resumed} times"} if resumed else {})


def _routes(trained: LoadedRun) -> str:
    with compute_settings(trained.config.train):
        return to_text(measure_routes(trained.config, trained.spec, trained.learner))


# --- the terminal table ---------------------------------------------------------------------------------------------


def summary(results: Results) -> str:
    """Every question that was measured, with its numbers, their intervals, baselines and targets; and its agents."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    for question, metrics in declarations.rows(results).items():
        rows = measured_rows(metrics, results)
        agents = agent_table(question, results)
        if rows:
            console.print(_numbers(question.text, [row for _, row in rows]))
        if agents is not None:
            console.print(_agents(agents))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="", width=WIDTH)
    table.add_column(first, ratio=1)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _numbers(question: str, rows: list[Any]) -> Table:
    table = _table(question, "", "95 % interval", "baseline", "target")
    for row in rows:
        target = f"{row.target} {row.verdict}" if row.target else ""
        label = f"{row.label}: refused, {row.refused}" if row.refused else row.label
        cells = (label, row.value, row.interval, row.baseline, target)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    table.add_row("")
    return table


def _agents(agents: dict[str, Any]) -> Table:
    table = _table("agent", *agents["columns"])
    for row in agents["rows"]:
        name = f"({row['name']})" if row["is_baseline"] else row["name"]
        table.add_row(*(Text(printable(cell)) for cell in (name, *(cell.value for cell in row["cells"]))))
    table.add_row("")
    return table
