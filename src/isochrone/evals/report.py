"""One self-contained HTML file: the isochrone map, four questions with their numbers, then everything else.

Images are inlined (a light and a dark one where both are given), there is no script and nothing is fetched.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from isochrone.core.files import atomic_write
from isochrone.evals.figures.style import png
from isochrone.evals.report_style import CSS, PAGE
from isochrone.evals.report_words import ALSO, MAP_READ, PLANNER_COLUMNS, SECTIONS, Row, Section

FLOORS = ("replay", "noop", "random")


def write_report(
    run_folder: Path,
    results: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Any],
    meta: Mapping[str, Any],
    dark: Mapping[str, Any] | None = None,
) -> Path:
    """Write `run_folder/report.html`, whole or not at all; returns its path.

    Args:
        results: as from `suite.evaluate`.
        figures: name -> Figure or PNG bytes, as from `suite.draw_all`.
        meta: 'title', 'about' (one line), 'config' (dict), 'versions' (dict), 'routes' (text, or rows as
            dicts); all optional.
        dark: the same figures for dark screens.
    """
    pictures = Pictures(figures, dark or {})
    shown = [
        s for s in SECTIONS if any(_known(results, row.key) for row in s.rows) or any(f in figures for f in s.figures)
    ]
    parts = [_hero(pictures), _tiles(shown, results), *(_section(s, results, pictures) for s in shown)]
    parts += [_more(pictures), _routes(meta.get("routes")), _all_numbers(results)]
    parts += [_settings("Config", meta.get("config")), _versions(meta.get("versions"))]
    title = str(meta.get("title", Path(run_folder).name))
    html = PAGE.substitute(
        title=escape(title), about=escape(str(meta.get("about", ""))), css=CSS, body="\n".join(p for p in parts if p)
    )
    path = Path(run_folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, html)
    return path


class Pictures:
    """Figures as inline images."""

    def __init__(self, light: Mapping[str, Any], dark: Mapping[str, Any]) -> None:
        self.light, self.dark = light, dark

    def __call__(self, name: str, said: str) -> str:
        """The <figure> of a name, or '' where it was not drawn."""
        if name not in self.light:
            return ""
        night = ""
        if name in self.dark:
            night = f'<source media="screen and (prefers-color-scheme: dark)" srcset="{_data(self.dark[name])}">'
        return f'<figure><picture>{night}<img src="{_data(self.light[name])}" alt="{escape(said)}"></picture></figure>'


def _data(figure: Any) -> str:
    image = figure if isinstance(figure, bytes) else png(figure)
    return "data:image/png;base64," + base64.b64encode(image).decode()


# --- numbers in words -----------------------------------------------------------------------------------------------


def _known(results: Mapping[str, Mapping[str, Any]], key: str) -> bool:
    return key in results and results[key].get("value") is not None


def write_number(value: float | None, style: str) -> str:
    """A number for reading: '%' writes shares, other styles are Python formats."""
    if value is None:
        return "–"
    if style == "%":
        return f"{100 * value:.1f} %" if abs(value) < 0.9995 else f"{100 * value:.0f} %"
    return style.format(value).replace("-", "−")


def _interval(entry: Mapping[str, Any], style: str) -> str:
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    return f"{write_number(entry['low'], style).removesuffix(' %')} … {write_number(entry['high'], style)}"


def _chip(entry: Mapping[str, Any], style: str) -> str:
    if "bar" not in entry:
        return ""
    sign, _, limit = str(entry["bar"]).partition(" ")
    met = bool(entry.get("met"))
    bar = f"{sign} {100 * float(limit):g} %" if style == "%" else f"{sign} {limit}"
    return f'<span class="chip {"met" if met else "missed"}">{"met" if met else "missed"} {escape(bar)}</span>'


def _table(rows: Sequence[Row], results: Mapping[str, Mapping[str, Any]]) -> str:
    body = []
    for row in rows:
        entry = results.get(row.key)
        if entry is None:
            continue
        if entry.get("value") is None:
            if entry.get("refused"):
                body.append(f'<tr><td>{escape(row.label)}</td><td colspan="4">{escape(entry["refused"])}</td></tr>')
            continue
        floor = write_number(entry["floor"], row.style) if entry.get("floor") is not None else ""
        body.append(
            f'<tr><td>{escape(row.label)}</td><td class="value">{write_number(entry["value"], row.style)}</td>'
            f"<td>{_interval(entry, row.style)}</td><td>{floor}</td><td>{_chip(entry, row.style)}</td></tr>"
        )
    if not body:
        return ""
    head = "<tr><th></th><th>measured</th><th>95 % interval</th><th>floor</th><th>bar</th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(body)}</table></div>'


# --- parts of the page ----------------------------------------------------------------------------------------------


def _hero(pictures: Pictures) -> str:
    image = pictures("isochrone", "Isochrone map: lines of equal distance in actions, believed and true. " + MAP_READ)
    return f'<div class="hero">{image}<p class="note">{escape(MAP_READ)}</p></div>' if image else ""


def _verdict(section: Section, results: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """(bars met, bars set) in a section."""
    judged = [results[r.key] for r in section.rows if _known(results, r.key) and "bar" in results[r.key]]
    return sum(bool(e.get("met")) for e in judged), len(judged)


def _tiles(sections: Sequence[Section], results: Mapping[str, Mapping[str, Any]]) -> str:
    tiles = []
    for section in sections:
        first = next((r for r in section.rows if _known(results, r.key)), None)
        if first is None:
            continue
        met, count = _verdict(section, results)
        said = (
            f'<span class="chip {"met" if met == count else "missed"}">{met} of {count} bars met</span>'
            if count
            else ""
        )
        value = write_number(results[first.key]["value"], first.style)
        tiles.append(
            f'<a class="tile" href="#{section.anchor}"><b>{escape(section.question)}</b>'
            f'<span class="big">{value}</span>'
            f"<small>{escape(first.label)}</small>{said}</a>"
        )
    return f'<nav class="tiles">{"".join(tiles)}</nav>' if tiles else ""


def _section(section: Section, results: Mapping[str, Mapping[str, Any]], pictures: Pictures) -> str:
    images = "".join(pictures(name, f"{section.question} {section.read}") for name in section.figures)
    extra = _planners(results) if section.anchor == "plan" else ""
    return (
        f'<section id="{section.anchor}"><h2>{escape(section.question)}</h2>'
        f'<p class="answer">{_answer(section, results)}</p>{images}'
        f'<p class="note">{escape(section.read)}</p>{_table(section.rows, results)}{extra}'
        f'<p class="note">Floor: {escape(section.floor)}.</p></section>'
    )


def _answer(section: Section, results: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence with the section's first number, its interval, its floor and its bar."""
    row = next((r for r in section.rows if _known(results, r.key)), None)
    if row is None:
        return "Not measured here."
    entry = results[row.key]
    label = escape(row.label[0].upper() + row.label[1:])
    interval = _interval(entry, row.style)
    text = f"{label}: <b>{write_number(entry['value'], row.style)}</b>"
    text += f" ({interval})" if interval else ""
    if entry.get("floor") is not None:
        text += f", where the floor is {write_number(entry['floor'], row.style)}"
    return f"{text}. {_chip(entry, row.style)}"


def _planners(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per planner, floors last and quiet."""
    names = [k.split(".")[1] for k in results if k.startswith("planning.") and k.endswith(".success")]
    names = [n for n in dict.fromkeys(names) if n != "best"]
    names.sort(key=lambda n: (n in FLOORS, -(results[f"planning.{n}.success"]["value"] or 0)))
    if not names:
        return ""
    head = "".join(f"<th>{escape(label)}</th>" for _, label, _ in PLANNER_COLUMNS)
    rows = []
    for name in names:
        cells = []
        for key, _, style in PLANNER_COLUMNS:
            entry = results.get(f"planning.{name}.{key}", {})
            interval = (
                f' <span class="quiet">({_interval(entry, style)})</span>'
                if key == "success" and _interval(entry, style)
                else ""
            )
            cells.append(f"<td>{write_number(entry.get('value'), style)}{interval}</td>")
        quiet = ' class="floor"' if name in FLOORS else ""
        rows.append(f"<tr{quiet}><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><tr><th>planner</th>{head}</tr>{"".join(rows)}</table></div>'


def _more(pictures: Pictures) -> str:
    found = "".join(
        f'{image}<p class="note">{escape(said)}</p>' for name, said in ALSO.items() if (image := pictures(name, said))
    )
    return f'<section class="long"><h2>Also measured</h2>{found}</section>' if found else ""


def _routes(routes: Any) -> str:
    """The gradient-route table: text as it is, or rows (dicts with the same keys)."""
    if not routes:
        return ""
    if isinstance(routes, str):
        inner = f"<pre>{escape(routes)}</pre>"
    else:
        keys = list(routes[0])
        head = "".join(f"<th>{escape(str(k))}</th>" for k in keys)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(str(r.get(k, '')))}</td>" for k in keys) + "</tr>" for r in routes
        )
        inner = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    return f'<section class="long"><h2>Which loss moves which weights</h2>{inner}</section>'


def _all_numbers(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = tuple(Row(key, key, "{:.4g}") for key in sorted(results))
    table = _table(rows, results)
    return f'<section class="long"><details><summary>All numbers</summary>{table}</details></section>' if table else ""


def _settings(title: str, config: Any) -> str:
    if not config:
        return ""
    text = escape(json.dumps(config, indent=2, default=str, ensure_ascii=False))
    return f'<section class="long"><details><summary>{title}</summary><pre>{text}</pre></details></section>'


def _versions(versions: Mapping[str, Any] | None) -> str:
    if not versions:
        return ""
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in versions.items())
    return f'<section class="long"><h2>Versions</h2><dl>{rows}</dl></section>'
