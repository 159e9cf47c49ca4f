"""report.html of a run, from what lies in its folder: results, figures, training curves, routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isochrone.core.registry import get
from isochrone.evals.report import write_report
from isochrone.evals.store import curves
from isochrone.tasks.evaluate import newest_figures
from isochrone.tasks.routes import plain, routes_of
from isochrone.tasks.trained import load
from isochrone.train.run import Run


def report(path: Path) -> Path:
    """Write RUN/report.html; nothing is measured again except which loss moves which weights."""
    run = Run.open(path, write=False)
    told = run.results()
    light, dark = newest_figures(run.path / "figures")
    figures: dict[str, Any] = dict(light)
    night: dict[str, Any] = dict(dark)
    if run.metrics.exists():
        training = get("figure", "training")
        arrays = curves(run.metrics)
        drawn = {theme: training(arrays, theme) for theme in ("light", "dark")}
        if drawn["light"] is not None:
            figures["training"], night["training"] = drawn["light"], drawn["dark"]
    meta = {
        "title": run.path.name,
        "about": _about(run, told.get("about", {})),
        "config": run.config,
        "versions": _versions(run),
        "routes": _routes(path),
    }
    return write_report(run.path, told.get("results", {}), figures, meta, night)


def _about(run: Run, about: dict[str, Any]) -> str:
    env = about.get("env") or run.config["env"]
    world = " ".join(str(env[k]) for k in ("name", "map", "id") if env.get(k))
    words = [f"recipe {run.config['recipe']}", f"world {world}", f"training seed {run.config['train']['seed']}"]
    if "step" in about:
        words.append(f"measured at step {about['step']}")
    else:
        words.append("not measured yet: run isochrone eval, then report again")
    return " · ".join(words)


def _versions(run: Run) -> dict[str, Any]:
    try:
        told = json.loads((run.path / "versions.json").read_text())
    except (OSError, ValueError):
        return {}
    flat = {k: told.get(k) for k in ("code", "commit", "python", "threads")}
    flat |= told.get("packages", {}) | told.get("machine", {})
    resumed = len(told.get("resumed", []))
    return {k: v for k, v in flat.items() if v is not None} | ({"resumed": f"{resumed} times"} if resumed else {})


def _routes(path: Path) -> str:
    trained = load(path)
    return plain(routes_of(trained.config, trained.spec, trained.model))
