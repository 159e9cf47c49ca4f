"""The report of a run: one self-contained HTML file, made from the declarations of the metrics and a template.

Images are inlined (a light and a dark one where both are given); there is no script and nothing is fetched.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from isochrone.core.files import atomic_write, writing
from isochrone.evals import metric as declarations
from isochrone.evals.figure import HERO, figures, png
from isochrone.evals.metric import BASELINES, Metric, Question

Entries = Mapping[str, Mapping[str, Any]]


def write_report(
    path: Path,
    results: Entries,
    images: Mapping[str, Any],
    meta: Mapping[str, Any],
    dark: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page `path`, whole or not at all; returns the path.

    Args:
        results: as from `suite.evaluate`.
        images: name -> matplotlib Figure or PNG bytes, as from `suite.draw_all`.
        meta: 'title', 'about' (one line), 'config' (dict), 'versions' (dict), 'routes' (text); all optional.
        dark: the same figures for dark screens.
    """
    page = Environment(autoescape=True).from_string(_template("report.html"))
    rendered = {name: _image(name, images, dark or {}) for name in images}
    sections = [
        section
        for question, rows in declarations.rows(results).items()
        if (section := _section(question, rows, results, rendered)) is not None
    ]
    other = [
        (f, rendered[f.name] | {"caption": f.caption}) for f in figures() if f.question is None and f.name in rendered
    ]
    config = meta.get("config")
    html = page.render(
        css=Markup(_template("report.css")),
        title=meta.get("title", path.stem),
        about=meta.get("about", ""),
        hero=next((image for figure, image in other if figure.order == HERO), None),
        tiles=[section for section in sections if section["headline"]],
        sections=sections,
        more=[image for figure, image in other if figure.order != HERO],
        routes=meta.get("routes"),
        every=[row_of(Metric(key, key, "{:.4g}"), results[key]) for key in sorted(results)],
        config=json.dumps(config, indent=2, default=str, ensure_ascii=False) if config else "",
        versions=meta.get("versions"),
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, html)
    return path


def _template(name: str) -> str:
    return (files("isochrone.evals") / "templates" / name).read_text(encoding="utf-8")


def _image(name: str, light: Mapping[str, Any], dark: Mapping[str, Any]) -> dict[str, str]:
    """The image as data, for light and for dark screens."""

    def data(figure: Any) -> str:
        image = figure if isinstance(figure, bytes) else png(figure)
        return "data:image/png;base64," + base64.b64encode(image).decode()

    return {"light": data(light[name]), "dark": data(dark[name]) if name in dark else ""}


# --- numbers as text ------------------------------------------------------------------------------------------------


def write_number(value: float | None, format: str) -> str:
    """A number for reading: '%' writes fractions as per cent, other formats are Python's."""
    if value is None:
        return "–"
    if format == "%":
        return f"{100 * value:.1f} %" if abs(value) < 0.9995 else f"{100 * value:.0f} %"
    return format.format(value).replace("-", "−")


def write_target(target: str, format: str) -> str:
    """'≥ 0.95' as it is, or '≥ 95 %' for fractions."""
    sign, _, limit = target.partition(" ")
    return f"{sign} {100 * float(limit):g} %" if format == "%" else target


@dataclass(frozen=True)
class Row:
    """One number as text; what it does not have is ''."""

    label: str
    value: str
    interval: str
    baseline: str
    target: str
    verdict: str  # 'met', 'missed', 'refused', or 'baseline too' where the target says nothing
    refused: str

    @property
    def sentence(self) -> str:
        """The label as the start of a sentence."""
        return self.label[:1].upper() + self.label[1:]


def row_of(metric: Metric, entry: Mapping[str, Any]) -> Row:
    """An entry of the results as text."""
    low, high, baseline = (entry.get(k) for k in ("low", "high", "baseline"))
    interval = ""
    if low is not None and high is not None:
        interval = f"{write_number(low, metric.format).removesuffix(' %')} … {write_number(high, metric.format)}"
    return Row(
        metric.label,
        write_number(entry.get("value"), metric.format),
        interval,
        "" if baseline is None else write_number(baseline, metric.format),
        write_target(entry["target"], metric.format) if "target" in entry else "",
        _verdict(entry),
        str(entry.get("refused") or ""),
    )


def _verdict(entry: Mapping[str, Any]) -> str:
    if entry.get("refused"):
        return "refused"
    return {True: "met", False: "missed"}.get(entry.get("met"), "baseline too")  # type: ignore[arg-type]


def measured_rows(metrics: Sequence[Metric], results: Entries) -> list[tuple[Metric, Row]]:
    """The rows with a value, or with the reason why there is none."""
    return [(m, row_of(m, e)) for m in metrics if (e := results[m.key]).get("value") is not None or e.get("refused")]


# --- sections -------------------------------------------------------------------------------------------------------


def _section(
    question: Question, metrics: Sequence[Metric], results: Entries, rendered: Mapping[str, dict[str, str]]
) -> dict[str, Any] | None:
    """What the template shows of a question; None where it has neither a number nor a figure."""
    images = [rendered[f.name] for f in figures() if f.question == question and f.name in rendered]
    measured = measured_rows(metrics, results)
    if not measured and not images:
        return None
    targets = [row for _, row in measured if row.target and row.verdict != "baseline too"]
    count_met = sum(row.verdict == "met" for row in targets)
    baselines = [m.baseline for m, row in measured if m.baseline and row.baseline]
    return {
        "name": question.name,
        "question": question.text,
        "read": question.read,
        "headline": next((row for _, row in measured if not row.refused), None),
        "targets": f"{count_met} of {len(targets)} targets met" if targets else "",
        "verdict": "met" if count_met == len(targets) else "missed",
        "figures": images,
        "rows": [row for _, row in measured],
        "agents": agent_table(question, results),
        "baselines": "; ".join(dict.fromkeys(baselines)),
    }


def agent_table(question: Question, results: Entries) -> dict[str, Any] | None:
    """One row per agent, baselines last; None where the question has no such table or no agent was measured."""
    columns = declarations.agent_columns(question)
    names = declarations.agents_of(columns[0], results) if columns else []
    if not names:
        return None
    rows = [
        {
            "name": name,
            "is_baseline": name in BASELINES,
            "cells": [row_of(column, results.get(column.key_of(name), {})) for column in columns],
        }
        for name in names
    ]
    return {"columns": [column.label for column in columns], "rows": rows}
