"""Which claims of the notes that the project began from hold: one row per claim, gathered from every study."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isochrone.evals.report import write_number
from isochrone.studies import plan
from isochrone.studies.aggregate import Line
from isochrone.studies.plan import Claim
from isochrone.studies.told import Told, pipe_table, spread

OF_THE_NOTES = re.compile(r"^(seeds/\d+)[^:]*: ")
"""How the source of such a claim begins."""
HOLDS, PARTLY, NOT, OPEN = "holds", "holds partly", "does not hold", "not measured"
HEAD = ["claim", "", "measured", "notes", "study"]
READ = """## Claims of the notes

What the notes that the project began from say, as far as a study can test it. **holds**: every number keeps to the
claim, in the mean and in every seed. **holds partly**: in the mean but not in every seed, or only some of the numbers.
**does not hold**: no mean keeps to it. In brackets: the lowest and the highest seed."""


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
    sources: dict[str, list[Claim]] = {}
    for claim in told.claims:
        if OF_THE_NOTES.match(claim.source):
            sources.setdefault(claim.source, []).append(claim)
    out = []
    for source, claims in sources.items():
        asked = [(role, claim.row) for claim in claims for role in claim.roles]
        found = [(role, line) for role, row in asked for line in told.lines(role) if line.key == row and line.claim]
        numbers = tuple(_number(role, line, told) for role, line in found)
        notes, text = source.split(": ", 1)[0], source.split(": ", 1)[1]
        out.append(Verdict(text, word([line for _, line in found], len(asked)), numbers, notes, told.name))
    return out


def word(found: Sequence[Line], asked: int) -> str:
    """The verdict on `asked` numbers, of which these are measured."""
    if len(found) < asked or not asked:
        return OPEN
    met = [bool(line.met) for line in found]
    if not any(met):
        return NOT
    every = all(line.claim and all(map(line.claim.bar.met, (line.least, line.most))) for line in found)
    return HOLDS if all(met) and every else PARTLY


def _number(role: str, line: Line, told: Told) -> str:
    """'σ of the posterior 0.103 (0.102 … 0.104), claimed ≥ 1'."""
    assert line.claim is not None
    sign = str(line.claim.bar).partition(" ")[0]
    limit = write_number(line.claim.bar.limit, line.style)
    mean = write_number(line.mean, line.style)
    return f"{told.study.roles[role]}: {line.label} {mean} ({spread(line)}), claimed {sign} {limit}"


def markdown(root: Path) -> str | None:
    """The section of docs/evidence.md; None where no study tests a claim of the notes."""
    verdicts = [v for name in plan.names(root) for v in of_study(Told(name, root))]
    if not verdicts:
        return None
    rows = [[v.claim, f"**{v.word}**", "; ".join(v.numbers), v.notes, v.study] for v in verdicts]
    counts = {w: sum(v.word == w for v in verdicts) for w in (HOLDS, PARTLY, NOT, OPEN)}
    said = ", ".join(f"{w} {count}" for w, count in counts.items() if count)
    return f"{READ}\n\n{len(verdicts)} claims: {said}.\n\n{pipe_table(HEAD, rows)}"
