"""The table of a study: as text for a terminal, and as a section of docs/evidence.md between two markers.

Both follow from study.py, claims.json and the stored results alone; a test holds the page to that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.harness import claims as verdicts
from studies.harness import curves
from studies.harness.aggregate import paired, planners, unmeasured
from studies.harness.study_results import Told, cells, pipe_table

from isochrone.core.files import atomic_write
from isochrone.evals.report import write_number
from isochrone.evals.suite import FLOORS

INTRO = """# Evidence

What was claimed and what was measured. Every section is written by `isochrone study NAME` from the results of single
trainings, one JSON each, which are committed under `studies/NAME/results/`. Nothing here is typed by hand, and a bar
that was missed stays in the table as missed.

How to read the tables:

- **mean**: over training seeds, each with its own recording, first weights, batches and held-out pairs.
- **95 % interval**: Student's t over seeds, so it says how far another set of seeds might lie. For shares of planning
  pairs it is Wilson's, over the pairs of all seeds together.
- **lowest … highest**: of single seeds. **seeds**: how many have the number.
- **floor**: what one gets without knowing anything (named in the report of a run), mean over seeds.
- **bar**: what was claimed or asked for, and whether the mean keeps to it; some are multiples of the floor or of
  another mean. The sources are below each section.
- **paired difference**: both planners on the same pairs; bootstrap over pairs.
- **†**: measured with an earlier config than the study has now.
"""


CLAIMS = "claims"
"""The section above all studies: whether the claims of the notes hold."""


def markers(name: str) -> tuple[str, str]:
    """What stands before and after a study's section, or that of `CLAIMS`."""
    name = name if name == CLAIMS else f"study:{name}"
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def update(name: str, root: Path) -> None:
    """Write the study's section into docs/evidence.md, and whether the notes' claims hold; the rest stays as it is."""
    path = root / "docs" / "evidence.md"
    page = path.read_text(encoding="utf-8") if path.exists() else INTRO
    told = Told(name, root)
    curves.write(root, name, told.roles, told.study.roles)
    page = _put(page, name, markdown(name, root))
    page = _put(page, CLAIMS, verdicts.markdown(root) or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, page)


def _put(page: str, name: str, text: str) -> str:
    """The page with a section exchanged; a new one goes to the end, that of `CLAIMS` before all studies."""
    begin, end = markers(name)
    section = f"{begin}\n{text}\n{end}"
    if begin in page and end in page:
        before, after = page[: page.index(begin)], page[page.index(end) + len(end) :]
        return before + section + after if text else before.rstrip() + after
    if name != CLAIMS:
        return f"{page.rstrip()}\n\n{section}\n"
    before, mark, after = page.partition("<!-- study:")
    return f"{before.rstrip()}\n\n{section}\n\n{mark}{after}" if text else page


def stored(name: str, root: Path) -> str | None:
    """A section as docs/evidence.md has it (a study's, or that of `CLAIMS`); None when it has none."""
    path = root / "docs" / "evidence.md"
    begin, end = map(re.escape, markers(name))
    found = re.search(f"{begin}\n(.*)\n{end}", path.read_text(encoding="utf-8"), re.S) if path.exists() else None
    return found[1] if found else None


# --- parts of a page -------------------------------------------------------------------------------------------------


HEAD = ["", "mean", "95 % interval", "lowest … highest", "seeds", "floor", "bar"]
PLANNERS = ["planner", "reached", "95 % interval", "at the end", "path ratio", "steps", "imagined steps per pair",
            "seconds", "pairs"]  # fmt: skip


def _planner_rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for p in planners(results, FLOORS):
        interval = f"{write_number(p.low, '%').removesuffix(' %')} … {write_number(p.high, '%')}"
        rest = [write_number(p.path_ratio, "{:.3f}"), write_number(p.steps, "{:.1f}"),
                write_number(p.evaluations, "{:,.0f}"), write_number(p.seconds, "{:.1f}"), str(p.pairs)]  # fmt: skip
        name = f"{p.name} (floor)" if p.floor else p.name
        rows.append([name, write_number(p.success, "%"), interval, write_number(p.at_end, "%"), *rest])
    return rows


def _differences(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"Paired difference {a} − {b}: {100 * mean:+.1f} points ({100 * low:+.1f} … {100 * high:+.1f}), {count} pairs."
        for a, b, mean, low, high, count in paired(results)
    ]


def _sentences(results: Sequence[dict[str, Any]]) -> list[str]:
    """What a forced cell said before its first step; the same sentence of several seeds once."""
    out = []
    refused = dict.fromkeys(r["sentences"]["refused"] for r in results if r["sentences"].get("refused"))
    if refused:
        out += [f"Refused without --allow-dead-losses: “{text}”" for text in refused]
    faults = dict.fromkeys(_bare(text) for r in results for text in r["sentences"].get("liveness", []))
    return out + [f"Liveness, forced: “{text}”" for text in faults]


def _bare(fault: str) -> str:
    """A fault without the rounding errors in which seeds differ."""
    return re.sub(r": value \S+ on every probe", ": 0 on every probe", fault)


def _made(results: Sequence[dict[str, Any]]) -> str:
    """With what code and on what machine."""
    commits = ", ".join(dict.fromkeys(_commit(r["code"]["commit"]) for r in results))
    torch = ", ".join(dict.fromkeys(r["packages"]["torch"] for r in results))
    machines = ", ".join(dict.fromkeys(f"{r['machine']['cpu']}, {r['machine']['threads']} thread" for r in results))
    configs = ", ".join(dict.fromkeys(r["config_hash"] for r in results))
    return f"Config {configs}; commit {commits}; torch {torch}; {machines}."


def _commit(commit: str | None) -> str:
    """Twelve digits, and '+changes' where files differed from the commit."""
    head, plus, _ = (commit or "unknown").partition("+")
    return head[:12] + (" with changes" if plus else "")


# --- two ways to write it -------------------------------------------------------------------------------------------


def markdown(name: str, root: Path) -> str:
    """The section of the page."""
    told = Told(name, root)
    parts = [f"## Study {name}: {told.study.title}", told.study.question, told.score()]
    if curves.told(told.roles):
        parts.append(f"![return over what was seen]({curves.path_of(root, name).name})")
    for role, results in told.roles.items():
        parts.append(f"### {told.heading(role)}")
        if not results:
            parts.append("Not measured yet.")
            continue
        parts.append(pipe_table(HEAD, [cells(line) for line in told.lines(role)]))
        rows = _planner_rows(results)
        parts += [pipe_table(PLANNERS, rows)] if rows else []
        parts += [*_differences(results), *_sentences(results), *_unmeasured(told, role), _made(results)]
    if told.claims:
        parts += ["### Sources of the bars", "\n".join(_sources(told))]
    return "\n\n".join(parts)


def _sources(told: Told) -> list[str]:
    """One line per source, with the rows and roles that it speaks of."""
    out: dict[str, list[str]] = {}
    for claim in told.claims:
        of = f" × {claim.of}" if claim.of else ""
        out.setdefault(claim.source, []).append(f"`{claim.row}` {claim.bar}{of}")
    return [f"- {source}: {', '.join(dict.fromkeys(rows))}" for source, rows in out.items()]


def _unmeasured(told: Told, role: str) -> list[str]:
    found = unmeasured(role, told.roles, told.claims) if told.roles[role] else []
    return [f"Claimed but not measured: {', '.join(f'`{c.row}`' for c in found)}."] if found else []


def terminal(name: str, root: Path) -> str:
    """The claimed numbers only, in 100 columns or so, with the planners beside their floors."""
    told = Told(name, root)
    out = [f"study {name}: {told.study.title}", told.score()]
    for role, results in told.roles.items():
        out += ["", told.heading(role)]
        rows = [cells(line) for line in told.lines(role) if line.claim]
        out += _columns(["", "mean", "95 % interval", "range", "n", "floor", "bar"], rows) if rows else []
        rows = [row[:6] + row[7:8] for row in _planner_rows(results)]
        out += ["", *_columns([*PLANNERS[:6], "seconds"], rows)] if rows else []
        out += [f"  {text}" for text in (*_differences(results), *_sentences(results), *_unmeasured(told, role))]
    return "\n".join(out)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned text: the first column to the left, the rest to the right."""
    short = [[row[0] if len(row[0]) <= 44 else row[0][:43] + "…", *row[1:]] for row in rows]
    wide = [max(len(row[i]) for row in [head, *short]) for i in range(len(head))]
    lined = [
        f"{row[0]:<{wide[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(row[1:], wide[1:], strict=True))
        for row in [head, *short]
    ]
    return [f"  {line}".rstrip() for line in lined]
