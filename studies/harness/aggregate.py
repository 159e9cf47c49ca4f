"""Cells of one role as one row per number: mean over seeds with its interval, and whether the claim's bar is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
from studies.harness.study import FLOOR, Claim

from isochrone.evals.report_words import SECTIONS
from isochrone.evals.stats import paired_bootstrap, wilson

Result = Mapping[str, Any]
SHARES = ("success", "success_end")  # shares of pairs: pooled over seeds
KNOWN = {row.key: row for section in SECTIONS for row in section.rows}
WHOLE = "seconds.whole"
SECONDS = {
    "seconds.train": "seconds of training",
    "seconds.evaluate": "seconds of measuring and planning",
    WHOLE: "seconds in all",
}
# two-sided 95 % quantile of Student's t for 1, 2, ... degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
       2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One number of a role. The interval of a mean over seeds is Student's t; that of a share pooled over all pairs is
    Wilson's; None where one seed tells none."""

    key: str
    label: str
    style: str
    count: int  # seeds
    mean: float
    low: float | None
    high: float | None
    least: float
    most: float
    floor: float | None
    claim: Claim | None

    @property
    def met(self) -> bool | None:
        """Does the mean keep to the bar? None without a claim."""
        return None if self.claim is None else self.claim.bar.met(self.mean)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of a few independent values, by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    t = T95[freedom - 1] if freedom <= len(T95) else NormalDist().inv_cdf(0.975)
    half = t * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def lines(role: str, results: Sequence[Result], claims: Sequence[Claim]) -> list[Line]:
    """The numbers of a role: those that the report knows in its order, then the claims' own, then seconds."""
    claimed = {claim.row: claim for claim in claims if role in claim.roles}
    keys = [*KNOWN, *(k for k in claimed if k not in KNOWN and k not in SECONDS), *SECONDS]
    made = (_line(key, results, claimed.get(key)) for key in keys)
    return [line for line in made if line is not None]


def settled(claims: Sequence[Claim], role: str, roles: Mapping[str, Sequence[Result]]) -> list[Claim]:
    """The claims on a role with numbers for limits; those `of` something that no cell has measured are left out."""
    out = []
    for claim in claims:
        if role not in claim.roles:
            continue
        if claim.of:
            cells = roles.get(claim.of, roles[role])  # another role; else of this one, its floor or another row
            row = claim.row if claim.of in (FLOOR, *roles) else claim.of
            kind = "floor" if claim.of == FLOOR else "value"
            told = [float(v) for r in cells if (v := r["values"].get(row, {}).get(kind)) is not None]
            if not told:
                continue
            claim = replace(claim, bar=claim.bar._replace(limit=claim.bar.limit * fmean(told)))
        out.append(claim)
    return out


def unmeasured(role: str, roles: Mapping[str, Sequence[Result]], claims: Sequence[Claim]) -> list[Claim]:
    """Claims about a role that no cell has a number for, or for what they are compared with."""
    measured = {c.row for c in settled(claims, role, roles) if any(value(r, c.row) is not None for r in roles[role])}
    return [c for c in claims if role in c.roles and c.row not in measured]


def value(result: Result, key: str) -> float | None:
    """A number of one cell; `WHOLE` is the sum of all its seconds."""
    if key == WHOLE:
        spent = [e["value"] for k, e in result["values"].items() if k.startswith("seconds.")]
        return sum(spent) if spent else None
    return result["values"].get(key, {}).get("value")


def _line(key: str, results: Sequence[Result], claim: Claim | None) -> Line | None:
    holding = [r for r in results if value(r, key) is not None]
    if not holding:
        return None
    values = [float(v) for r in holding if (v := value(r, key)) is not None]
    floors = [f for r in holding if (f := r["values"].get(key, {}).get("floor")) is not None]
    mean, interval = fmean(values), t_interval(values)
    if key.startswith("planning.") and key.rpartition(".")[2] in SHARES:
        reached, count = pooled(key, holding)
        mean, interval = reached / count, wilson(reached, count)
    known = KNOWN.get(key)
    label = claim.says if claim and claim.says else known.label if known else SECONDS.get(key, key)
    style = claim.style if claim and claim.style else known.style if known else "{:.0f}"
    low, high = interval or (None, None)
    floor = fmean(floors) if floors else None
    return Line(key, label, style, len(values), mean, low, high, min(values), max(values), floor, claim)


# --- planners -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannerLine:
    """One planner or floor, over all pairs of all seeds."""

    name: str
    floor: bool
    pairs: int
    success: float
    low: float
    high: float
    at_end: float | None
    path_ratio: float | None
    steps: float | None
    evaluations: float | None
    seconds: float | None


def pooled(key: str, results: Sequence[Result]) -> tuple[int, int]:
    """(successes, pairs) of 'planning.NAME.success' over all cells."""
    head = key.rpartition(".")[0]
    counts = [round(value(r, f"{head}.pairs") or 0) for r in results]
    return sum(round((value(r, key) or 0) * n) for r, n in zip(results, counts, strict=True)), sum(counts)


def planners(results: Sequence[Result], floors: Sequence[str]) -> list[PlannerLine]:
    """Planners first, floors last; empty where nobody planned."""
    ending = ".success"
    found = [
        k.removeprefix("planning.").removesuffix(ending) for r in results for k in r["values"] if k.endswith(ending)
    ]
    names = [n for n in dict.fromkeys(found) if n != "best"]
    made = []
    for name in sorted(names, key=lambda n: (n in floors, list(floors).index(n) if n in floors else names.index(n))):
        holding = [r for r in results if value(r, f"planning.{name}.success") is not None]
        reached, count = pooled(f"planning.{name}.success", holding)

        def mean(kind: str, name: str = name, holding: Sequence[Result] = holding) -> float | None:
            told = [v for r in holding if (v := value(r, f"planning.{name}.{kind}")) is not None]
            return fmean(told) if told else None

        low, high = wilson(reached, count)
        rest = [mean(kind) for kind in ("success_end", "path_ratio", "steps", "evaluations", "seconds")]
        made.append(PlannerLine(name, name in floors, count, reached / count, low, high, *rest))
    return made


def paired(results: Sequence[Result]) -> list[tuple[str, str, float, float, float, int]]:
    """(planner, other planner, difference of success, low, high, pairs): paired bootstrap over all pairs."""
    names = dict.fromkeys(name for r in results for name in r["pairs"])
    out = []
    for name in names:
        told = [r["pairs"][name] for r in results if name in r["pairs"]]
        counts = [sum(t[kind] for t in told) for kind in ("both", "first", "second", "neither")]
        first = np.repeat([1.0, 1.0, 0.0, 0.0], counts)
        second = np.repeat([1.0, 0.0, 1.0, 0.0], counts)
        found = paired_bootstrap(first, second, np.random.default_rng(0))
        out.append((*name.split("|"), *found, sum(counts)))
    return out
