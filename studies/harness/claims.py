"""Which statements of the notes and papers that the project started from hold: one verdict each, from every study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from isochrone.evals.report import write_number
from isochrone.evals.stats import t_interval
from studies.harness.aggregate import Line, Result, StudyResults, value
from studies.harness.study import BASELINE, Claim

HOLDS, PARTLY, NOT, UNDECIDED, UNMEASURED = (
    "holds",
    "holds partly",
    "does not hold",
    "undecided",
    "not measured",
)


@dataclass(frozen=True)
class Verdict:
    """A statement, its verdict, and the numbers behind it."""

    statement: str
    word: str
    numbers: tuple[str, ...]
    source: str
    study: str


def verdicts_of(results: StudyResults) -> list[Verdict]:
    """The verdicts on the statements that a study tests, in the order of its claims."""
    statements: dict[str, list[tuple[Claim, str]]] = {}
    for claim in results.claims:
        if claim.statement:
            statements.setdefault(claim.statement, []).extend((claim, role) for role in claim.roles)
    out = []
    for statement, claims in statements.items():
        distances = [distances_of(claim, role, results) for claim, role in claims]
        numbers = [_number(claim, role, results) for claim, role in claims]
        met = [meets(d, claim.target.sign) for d, (claim, _) in zip(distances, claims, strict=True)]
        word = combine(met) if all(distances) else UNMEASURED
        source = ", ".join(dict.fromkeys(claim.source for claim, _ in claims))
        out.append(Verdict(statement, word, tuple(n for n in numbers if n), source, results.name))
    return out


def distances_of(claim: Claim, role: str, results: StudyResults) -> list[float]:
    """How far each seed's number lies above its own target; empty unless every planned seed has both."""
    out = []
    for cell in results.roles[role]:
        limit = _limit(claim, cell, results)
        if (number := value(cell, claim.metric)) is not None and limit is not None:
            out.append(number - limit)
    return out if len(out) == results.planned[role] else []


def _limit(claim: Claim, cell: Result, results: StudyResults) -> float | None:
    """The target of one seed: a number, or a factor times its baseline, another metric of it, or the same seed of
    another role."""
    base = claim.relative_to
    if not base:
        return claim.target.limit
    if base in results.roles:
        same = [r for r in results.roles[base] if r["seed"] == cell["seed"]]
        number = value(same[0], claim.metric) if same else None
    else:
        number = cell["values"].get(claim.metric, {}).get(BASELINE) if base == BASELINE else value(cell, base)
    return None if number is None else claim.target.limit * number


def meets(distances: Sequence[float], sign: str) -> bool | None:
    """Does the 95 % interval of these distances lie on the claimed side of 0 (True), on the other (False), or on both
    (None)?"""
    ends = t_interval(distances)
    if ends is None:
        return None
    low, high = ends if sign == ">=" else (-ends[1], -ends[0])
    return True if low >= 0 else False if high < 0 else None


def combine(met: Sequence[bool | None]) -> str:
    """The verdict on a statement with several numbers."""
    if all(met):
        return HOLDS
    if any(met):
        return PARTLY
    return NOT if all(m is False for m in met) else UNDECIDED


def summary(verdicts: Sequence[Verdict]) -> str:
    """'16 statements: holds 5, holds partly 3, ...'."""
    counts = {w: sum(v.word == w for v in verdicts) for w in (HOLDS, PARTLY, NOT, UNDECIDED, UNMEASURED)}
    return f"{len(verdicts)} statements: {', '.join(f'{w} {count}' for w, count in counts.items() if count)}."


def _number(claim: Claim, role: str, results: StudyResults) -> str:
    """'KL at weight 0: share of noise 4 % (3 … 5 %), target ≥ 50 %', and the mean distance where the target is another
    role's number."""
    line = next((x for x in results.lines(role) if x.key == claim.metric and x.claim), None)
    if line is None or line.claim is None:
        return ""
    sign = str(line.claim.target).partition(" ")[0]
    mean, limit = line.write(line.mean), line.write(line.claim.target.limit)
    text = f"{results.study.roles[role]}: {line.label} {mean} ({line.spread}), target {sign} {limit}"
    return text + _distance(claim, role, results, line)


def _distance(claim: Claim, role: str, results: StudyResults, line: Line) -> str:
    distances = distances_of(claim, role, results) if claim.relative_to else []
    ends = t_interval(distances)
    if ends is None:
        return ""
    mean, low, high = (write_number(x, line.format).removesuffix(" %") for x in (fmean(distances), *ends))
    return f", seed by seed {mean} from it (95 %: {low} … {high})"
