"""The pages of evidence: docs/evidence.md (an index), docs/evidence/NAME.md with its figure, a table for a terminal.

All of them follow from study.py, claims.json and the stored results; a test compares the committed pages with them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.evals.metric import BASELINES
from isochrone.evals.report import write_number
from studies.harness import claims, figures, study
from studies.harness.aggregate import Line, StudyResults, paired, planner_lines, unmeasured

INTRO = """# Evidence

What was claimed and what was measured. These pages are written by `python -m studies NAME` from the results of single
trainings, one JSON file each, committed under `studies/NAME/results/`. No number is typed by hand, and a target that
was missed stays in the tables as missed."""

VERDICTS = """## Statements that were tested

What the notes and papers that the project started from say ([background](background.md)), where a study tests it. The
**targets** are ours: numbers that say what we take a statement to mean. A target is met when the 95 % interval of the
distance from it (Student's t over seeds; where the target is another model's number, seed by seed) lies wholly on the
claimed side, and missed when it lies wholly on the other side. A statement **holds** when all its targets are met,
**does not hold** when all are missed, **holds partly** when some are met, and is **undecided** otherwise.

Not tested: scores that the notes quote from elsewhere (no source was found), and noise on observations in place of the
KL."""

READING = """## How to read the tables

- **mean**: over training seeds, each with its own recording, initial weights, batches and held-out pairs.
- **95 % interval**: Student's t over seeds: where the mean of other seeds may lie. Empty where all seeds are equal:
  their spread says nothing. For shares of planning pairs also over asin √share, and at least as wide as the exact
  interval of all pairs. How often each kind holds the truth is simulated by `bench/coverage.py`.
- **lowest … highest**: of single seeds. **seeds**: how many have the number.
- **baseline**: what a method without a model scores (the report of a run names it), mean over seeds.
- **target**: what was claimed or required, and whether the mean meets it; some are multiples of the baseline or of
  another mean. The sources stand at the end of each page.
- **paired difference**: both planners on the same pairs; its interval is over seeds too.
- **†**: measured with an earlier config than the study has now."""

HEAD = ["", "mean", "95 % interval", "lowest … highest", "seeds", "baseline", "target"]
PLANNERS = ["planner", "reached", "95 % interval", "at the end", "path ratio", "steps", "imagined steps per pair",
            "seconds", "pairs"]  # fmt: skip


def index_path(root: Path) -> Path:
    """docs/evidence.md."""
    return root / "docs" / "evidence.md"


def page_path(root: Path, name: str) -> Path:
    """docs/evidence/NAME.md."""
    return root / "docs" / "evidence" / f"{name}.md"


def update(name: str, root: Path) -> None:
    """Write a study's page and figure, and the index."""
    results = StudyResults(name, root)
    figures.write(root, results)
    path = page_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, study_page(results, root))
    atomic_write(index_path(root), index(root))


# --- the index --------------------------------------------------------------------------------------------------------


def index(root: Path) -> str:
    """docs/evidence.md: the verdicts, then a paragraph and the figure of each study."""
    parts = [INTRO]
    studies = [StudyResults(name, root) for name in study.names(root)]
    verdicts = [verdict for results in studies for verdict in claims.verdicts_of(results)]
    if verdicts:
        rows = [[v.statement, f"**{v.word}**", f"[{v.study}](evidence/{v.study}.md)"] for v in verdicts]
        parts += [VERDICTS, claims.summary(verdicts), pipe_table(["statement", "verdict", "study"], rows)]
    parts.append("## Studies")
    for results in sorted(studies, key=lambda r: r.study.order):
        parts += _summary(results, root)
    return "\n\n".join([*parts, READING]) + "\n"


def _summary(results: StudyResults, root: Path) -> list[str]:
    name, title = results.name, results.study.title
    out = [f"### {title[0].upper()}{title[1:]}", results.study.question]
    if results.study.finding:
        out.append(fill(results.study.finding, results))
    names = ", ".join(f"`{metric}`" for metric in results.study.withdrawn)
    out.append(
        f"{results.score()}{f' Withdrawn: {names}.' if names else ''} All numbers: [{name}](evidence/{name}.md)."
    )
    if figures.path_of(root, name).exists():
        out.append(f"![{title}](evidence/{name}.png)")
    return out


def fill(text: str, results: StudyResults) -> str:
    """Replace each '{role:metric}' by the metric's mean over the role's seeds; '–' if not measured. UserError for an
    unknown role."""

    def number(match: re.Match[str]) -> str:
        role, metric = match[1], match[2]
        if role not in results.roles:
            raise UserError(f"studies/{results.name}/study.py: the finding names no role '{role}'")
        line = results.line(role, metric)
        return "–" if line is None else line.write(line.mean)

    return re.sub(r"\{([^:{}]+):([^{}]+)\}", number, text)


# --- the page of a study ----------------------------------------------------------------------------------------------


def study_page(results: StudyResults, root: Path) -> str:
    """docs/evidence/NAME.md: every number of the study."""
    name = results.name
    parts = [f"# Study {name}: {results.study.title}", results.study.question, results.score()]
    parts.append("[How to read the tables](../evidence.md#how-to-read-the-tables)")
    if figures.path_of(root, name).exists():
        parts.append(f"![{results.study.title}]({name}.png)")
    if verdicts := claims.verdicts_of(results):
        rows = [[v.statement, f"**{v.word}**", "; ".join(v.numbers), _background(v.source)] for v in verdicts]
        parts += ["## Statements", pipe_table(["statement", "verdict", "measured", "source"], rows)]
    parts += withdrawn(results)
    for role, cells in results.roles.items():
        parts.append(f"## {results.heading(role)}")
        if not cells:
            parts.append("Not measured yet.")
            continue
        parts.append(pipe_table(HEAD, [row(line) for line in results.lines(role)]))
        planners = planner_rows(cells)
        parts += [pipe_table(PLANNERS, planners)] if planners else []
        parts += [*differences(cells), *messages(cells), *_unmeasured(results, role), _provenance(cells)]
    if results.claims:
        parts += ["## Sources of the targets", "\n".join(_sources(results))]
    return "\n\n".join(parts) + "\n"


def withdrawn(results: StudyResults) -> list[str]:
    """The metrics whose stored numbers are not shown, and why."""
    lines = [f"- `{metric}`: {why}" for metric, why in results.study.withdrawn.items()]
    return ["## Withdrawn", "\n".join(lines)] if lines else []


def _background(heading: str) -> str:
    """A link to a heading of docs/background.md."""
    anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    return f"[{heading}](../background.md#{anchor})"


def row(line: Line) -> list[str]:
    """One row of a role's table."""
    baseline = "" if line.baseline is None else line.write(line.baseline)
    return [line.label, line.write(line.mean), line.interval, line.spread, str(line.count), baseline, target(line)]


def target(line: Line) -> str:
    """'≥ 99 %: met'."""
    if line.claim is None:
        return ""
    sign, _, limit = str(line.claim.target).partition(" ")
    limit = f"{100 * line.claim.target.limit:g} %" if line.format == "%" else limit
    limit = line.write(line.claim.target.limit) if line.claim.relative_to else limit
    return f"{sign} {limit}: {'met' if line.met else 'missed'}"


def planner_rows(cells: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per planner and baseline."""
    rows = []
    for p in planner_lines(cells, BASELINES):
        interval = f"{write_number(p.low, '%').removesuffix(' %')} … {write_number(p.high, '%')}" if p.high else ""
        rest = [write_number(p.path_ratio, "{:.3f}"), write_number(p.steps, "{:.1f}"),
                write_number(p.evaluations, "{:,.0f}"), write_number(p.seconds, "{:.1f}"), str(p.pairs)]  # fmt: skip
        name = f"{p.name} (baseline)" if p.is_baseline else p.name
        rows.append([name, write_number(p.success, "%"), interval, write_number(p.at_end, "%"), *rest])
    return rows


def differences(cells: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence per two planners."""
    out = []
    for a, b, mean, ends, count in paired(cells):
        interval = f" ({100 * ends[0]:+.1f} … {100 * ends[1]:+.1f})" if ends else ""
        out.append(f"Paired difference {a} − {b}: {100 * mean:+.1f} points{interval}, {count} pairs.")
    return out


def messages(cells: Sequence[dict[str, Any]]) -> list[str]:
    """The errors of a cell with dead losses, before its first step; the same message of several seeds once."""
    refused = dict.fromkeys(r["messages"]["refused"] for r in cells if r["messages"].get("refused"))
    out = [f"Error without --allow-dead-losses: “{text}”" for text in refused]
    faults = dict.fromkeys(_without_rounding(text) for r in cells for text in r["messages"].get("liveness", []))
    return out + [f"Liveness, forced: “{text}”" for text in faults]


def _without_rounding(fault: str) -> str:
    """A fault without the rounding errors in which seeds differ."""
    return re.sub(r": value \S+ on every probe", ": 0 on every probe", fault)


def _provenance(cells: Sequence[dict[str, Any]]) -> str:
    """The code, the packages and the machine."""
    commits = ", ".join(dict.fromkeys(_commit(r["code"]["commit"]) for r in cells))
    torch = ", ".join(dict.fromkeys(r["packages"]["torch"] for r in cells))
    machines = ", ".join(dict.fromkeys(f"{r['machine']['cpu']}, {r['machine']['threads']} thread" for r in cells))
    configs = ", ".join(dict.fromkeys(r["config_hash"] for r in cells))
    return f"Config {configs}; commit {commits}; torch {torch}; {machines}."


def _commit(commit: str | None) -> str:
    """Twelve digits, and 'with changes' where files differed from the commit."""
    head, plus, _ = (commit or "unknown").partition("+")
    return head[:12] + (" with changes" if plus else "")


def _sources(results: StudyResults) -> list[str]:
    """One line per source, with its targets."""
    out: dict[str, list[str]] = {}
    for claim in results.claims:
        base = f" × {claim.relative_to}" if claim.relative_to else ""
        source = f"“{claim.statement}” ({_background(claim.source)})" if claim.statement else claim.source
        out.setdefault(source, []).append(f"`{claim.metric}` {claim.target}{base}")
    return [f"- {source}: {', '.join(dict.fromkeys(targets))}" for source, targets in out.items()]


def _unmeasured(results: StudyResults, role: str) -> list[str]:
    missing = unmeasured(role, results.roles, results.claims) if results.roles[role] else []
    return [f"Claimed but not measured: {', '.join(f'`{c.metric}`' for c in missing)}."] if missing else []


def pipe_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body])


# --- a terminal -------------------------------------------------------------------------------------------------------


def terminal(name: str, root: Path) -> str:
    """The metrics with targets, and the planners beside their baselines."""
    results = StudyResults(name, root)
    out = [f"study {name}: {results.study.title}", results.score()]
    for role, cells in results.roles.items():
        out += ["", results.heading(role)]
        rows = [row(line) for line in results.lines(role) if line.claim]
        out += [_text_table(["", "mean", "95 % interval", "range", "n", "baseline", "target"], rows)] if rows else []
        rows = [r[:6] + r[7:8] for r in planner_rows(cells)]
        out += [_text_table([*PLANNERS[:6], "seconds"], rows)] if rows else []
        out += [f"  {text}" for text in (*differences(cells), *messages(cells), *_unmeasured(results, role))]
    out += [f"withdrawn: {metric}: {why}" for metric, why in results.study.withdrawn.items()]
    return "\n".join(out)


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the rest to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(head):
        table.add_column(title, justify="right" if number else "left", no_wrap=True, max_width=None if number else 44)
    for cells in rows:
        table.add_row(*cells)
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]
