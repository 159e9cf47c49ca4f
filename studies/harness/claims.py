"""Which claims of the notes that the project began from hold: one row per claim, gathered from every study."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from studies.harness import study as plan
from studies.harness.aggregate import Line, Result, t_interval, value
from studies.harness.study import FLOOR, Claim
from studies.harness.study_results import Told, pipe_table, spread

from isochrone.evals.report import write_number

OF_THE_NOTES = re.compile(r"^(seeds/\d+[^:]*): (.*)$", re.S)
"""The source of such a claim: where it stands, and what it says."""
HOLDS, PARTLY, NOT, OPEN, UNMEASURED = "holds", "holds partly", "does not hold", "undecided", "not measured"
HEAD = ["claim", "", "measured", "notes", "study"]
READ = """## Claims of the notes

What the notes that the project began from say, where a study tests it. The bars are ours: what we take such a sentence
to mean. A number **keeps** to its bar when the 95 % interval of its distance from the bar (Student's t over seeds;
where the bar is another model's number, seed by seed) lies wholly on the claimed side, and **misses** it when wholly on
the other. A claim **holds** when all its numbers keep, **does not hold** when all miss, **holds partly** when some
keep, and is **undecided** otherwise. In brackets: the lowest and the highest seed.

Not tested: scores that the notes quote from elsewhere (no source was found), and noise on observations instead of the
KL."""


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, and the numbers that say so."""

    claim: str
    word: str
    numbers: tuple[str, ...]
    notes: str
    study: str


def of_study(told: Told) -> list[Verdict]:
    """The verdicts on the notes' claims that a study tests, in the order of its claims."""
    sources: dict[str, list[tuple[Claim, str]]] = {}
    for claim in told.claims:
        if OF_THE_NOTES.match(claim.source):
            sources.setdefault(claim.source, []).extend((claim, role) for role in claim.roles)
    out = []
    for source, asked in sources.items():
        found = OF_THE_NOTES.match(source)
        assert found is not None
        apart = [distances(claim, role, told) for claim, role in asked]
        numbers = [_number(claim, role, told) for claim, role in asked]
        kept = [keeps(a, claim.bar.sign) for a, (claim, _) in zip(apart, asked, strict=True)]
        word = UNMEASURED if not all(apart) else settle(kept)
        out.append(Verdict(found[2], word, tuple(n for n in numbers if n), found[1], told.name))
    return out


def distances(claim: Claim, role: str, told: Told) -> list[float]:
    """How far each seed's number lies above its own bar; empty unless every seed that the study asks for has both."""
    out = []
    for cell in told.roles[role]:
        limit = _limit(claim, cell, told)
        if (number := value(cell, claim.row)) is not None and limit is not None:
            out.append(number - limit)
    return out if len(out) == told.asked[role] else []


def _limit(claim: Claim, cell: Result, told: Told) -> float | None:
    """The bar of one seed: a number, or a factor times its floor, another row of it, or another role's same seed."""
    if not claim.of:
        return claim.bar.limit
    if claim.of in told.roles:
        same = [r for r in told.roles[claim.of] if r["seed"] == cell["seed"]]
        base = value(same[0], claim.row) if same else None
    else:
        base = cell["values"].get(claim.row, {}).get("floor") if claim.of == FLOOR else value(cell, claim.of)
    return None if base is None else claim.bar.limit * base


def keeps(apart: Sequence[float], sign: str) -> bool | None:
    """Do these distances lie on the claimed side of 0 (True), on the other (False), or does nobody know (None)?"""
    ends = t_interval(apart)
    if ends is None:
        return None
    low, high = ends if sign == ">=" else (-ends[1], -ends[0])
    return True if low >= 0 else False if high < 0 else None


def settle(kept: Sequence[bool | None]) -> str:
    """The verdict on a claim of several numbers."""
    if all(kept):
        return HOLDS
    if any(kept):
        return PARTLY
    return NOT if all(k is False for k in kept) else OPEN


def _number(claim: Claim, role: str, told: Told) -> str:
    """'KL at weight 0: share of noise 4 % (3 … 5 %), bar ≥ 50 %'; of another role: the mean distance from it, too."""
    line = next((x for x in told.lines(role) if x.key == claim.row and x.claim), None)
    if line is None or line.claim is None:
        return ""
    sign = str(line.claim.bar).partition(" ")[0]
    limit, mean = (write_number(x, line.style) for x in (line.claim.bar.limit, line.mean))
    said = f"{told.study.roles[role]}: {line.label} {mean} ({spread(line)}), bar {sign} {limit}"
    return said + _apart(claim, role, told, line)


def _apart(claim: Claim, role: str, told: Told, line: Line) -> str:
    apart = distances(claim, role, told) if claim.of else []
    ends = t_interval(apart)
    if ends is None:
        return ""
    mean, low, high = (write_number(x, line.style).removesuffix(" %") for x in (fmean(apart), *ends))
    return f", seed by seed {mean} from it (95 %: {low} … {high})"


def markdown(root: Path) -> str | None:
    """The section of docs/evidence.md; None where no study tests a claim of the notes."""
    verdicts = [v for name in plan.names(root) for v in of_study(Told(name, root))]
    if not verdicts:
        return None
    rows = [[v.claim, f"**{v.word}**", "; ".join(v.numbers), v.notes, v.study] for v in verdicts]
    counts = {w: sum(v.word == w for v in verdicts) for w in (HOLDS, PARTLY, NOT, OPEN, UNMEASURED)}
    said = ", ".join(f"{w} {count}" for w, count in counts.items() if count)
    return f"{READ}\n\n{len(verdicts)} claims: {said}.\n\n{pipe_table(HEAD, rows)}"
