"""report.html of a run, from what lies in its folder: results, figures, training curves, routes.

The results of an evaluation as a table for the terminal, 80 columns wide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isochrone.core.registry import get
from isochrone.evals.report import FLOORS, write_number, write_report
from isochrone.evals.report_words import SECTIONS
from isochrone.evals.store import curves
from isochrone.evals.suite import Results
from isochrone.train.run import Run
from isochrone.workflows.evaluate import newest_figures
from isochrone.workflows.loaded_run import load
from isochrone.workflows.routes import measure_routes, to_text


def report(path: Path, trust: bool = False) -> Path:
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
        "routes": _routes(path, trust),
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


def _routes(path: Path, trust: bool) -> str:
    trained = load(path, trust=trust)
    return to_text(measure_routes(trained.config, trained.spec, trained.model))


def summary(results: Results) -> str:
    """Four questions, their numbers with interval, floor and bar; then the planners beside their floors."""
    lines: list[str] = []
    for section in SECTIONS:
        rows = [_row(row.label, results[row.key], row.style) for row in section.rows if _known(results, row.key)]
        if rows:
            lines += ["", f"{section.question:<46}{'':>9}{'95 % interval':>14}{'floor':>8}  bar", *rows]
    unseen = [_row(k, results[k], "{:.4g}") for k in sorted(results) if k.startswith("held_out.")]
    if unseen:
        lines += ["", "Losses on data never trained on", *unseen]
    return "\n".join([*lines, *_planners(results)]).strip("\n")


def _known(results: Results, key: str) -> bool:
    return results.get(key, {}).get("value") is not None


def _row(label: str, entry: dict[str, Any], style: str) -> str:
    interval = ""
    if entry.get("low") is not None and entry.get("high") is not None:
        interval = "..".join(write_number(entry[k], style).removesuffix(" %") for k in ("low", "high"))
    floor = write_number(entry["floor"], style) if entry.get("floor") is not None else ""
    bar = f"{entry['bar']} {'met' if entry['met'] else 'missed'}" if "bar" in entry else ""
    name = label if len(label) <= 43 else label[:42] + "…"
    return f"  {name:<44}{write_number(entry['value'], style):>9}{interval:>14}{floor:>8}  {bar}".rstrip()


def _planners(results: Results) -> list[str]:
    names = list(
        dict.fromkeys(k.split(".")[1] for k in results if k.startswith("planning.") and k.endswith(".success"))
    )
    names = [n for n in names if n not in ("best", *FLOORS)] + [n for n in FLOORS if n in names]
    if not names:
        return []
    lines = ["", f"{'Planning':<18}{'success':>10}{'interval':>16}{'path ratio':>12}{'steps':>8}{'seconds':>9}"]
    for name in names:
        get = {k: results.get(f"planning.{name}.{k}", {}) for k in ("success", "path_ratio", "steps", "seconds")}
        low, high = get["success"].get("low"), get["success"].get("high")
        interval = "" if low is None or high is None else f"{100 * low:.1f}..{100 * high:.1f} %"
        seconds = write_number(get["seconds"].get("value"), "{:.1f}")
        lines.append(
            f"  {name + (' (floor)' if name in FLOORS else ''):<16}{write_number(get['success'].get('value'), '%'):>10}"
            f"{interval:>16}{write_number(get['path_ratio'].get('value'), '{:.2f}'):>12}"
            f"{write_number(get['steps'].get('value'), '{:.1f}'):>8}{seconds:>9}"
        )
    return lines
