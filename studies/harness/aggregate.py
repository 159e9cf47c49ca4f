"""From the results of cells to rows of tables: means over seeds with intervals, and whether each target is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from isochrone.evals.metric import metric_of, rows
from isochrone.evals.report import write_number
from isochrone.evals.stats import Interval, difference_over_seeds, share_over_seeds, t_interval
from studies.harness import result
from studies.harness.study import BASELINE, Claim, load, load_claims

Result = Mapping[str, Any]
SHARES = ("success", "success_end")
"""Endings of metrics that are shares of planning pairs."""
ALL_SECONDS = "seconds.whole"
SECONDS = {
    "seconds.train": "seconds of training",
    "seconds.evaluate": "seconds of measuring and planning",
    ALL_SECONDS: "seconds in all",
}


@dataclass(frozen=True)
class Line:
    """One metric of a role. The interval of a mean over seeds is Student's t; None for a single seed, and where all
    seeds are equal: their spread says nothing. Shares of planning pairs: see `stats.share_over_seeds`."""

    key: str
    label: str
    format: str
    count: int  # seeds
    mean: float
    low: float | None
    high: float | None
    least: float
    most: float
    baseline: float | None
    claim: Claim | None

    @property
    def met(self) -> bool | None:
        """Does the mean meet the target? None without a claim."""
        return None if self.claim is None else self.claim.target.met(self.mean)

    def write(self, number: float) -> str:
        """A number in the metric's format."""
        return write_number(number, self.format)

    @property
    def interval(self) -> str:
        """'0.98 … 0.99'; empty for a single seed."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.write(self.low).removesuffix(' %')} … {self.write(self.high)}"

    @property
    def spread(self) -> str:
        """'0.97 … 0.99': the lowest and the highest seed."""
        return f"{self.write(self.least).removesuffix(' %')} … {self.write(self.most)}"


class StudyResults:
    """A study with its stored results and its claims, by role."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.study = name, load(name, root)
        self.claims = [c for c in load_claims(name, self.study, root) if c.metric not in self.study.withdrawn]
        stored = result.read_all(root, name, self.study)
        self.roles: dict[str, list[dict[str, Any]]] = {role: [] for role in self.study.roles}
        self.planned = dict.fromkeys(self.study.roles, 0)
        self.stale = dict.fromkeys(self.study.roles, 0)
        for cell in self.study.cells:
            self.planned[cell.role] += 1
            if cell.name in stored:
                kept = {k: v for k, v in stored[cell.name]["values"].items() if k not in self.study.withdrawn}
                self.roles[cell.role].append({**stored[cell.name], "values": kept})
                self.stale[cell.role] += result.state(root, self.study, cell, stored[cell.name]) == "stale"

    def lines(self, role: str) -> list[Line]:
        """The table of a role: metrics in the order of the report, then those of the claims alone, then seconds."""
        return lines(role, self.roles[role], resolve_targets(self.claims, role, self.roles))

    def line(self, role: str, metric: str) -> Line | None:
        """One metric of a role, also one that no table shows."""
        claims = [c for c in resolve_targets(self.claims, role, self.roles) if c.metric == metric]
        return _line(metric, self.roles[role], claims[0] if claims else None)

    def heading(self, role: str) -> str:
        """'zhp on pipes: 5 of 5 seeds'."""
        mark = " †" if self.stale[role] else ""
        return f"{self.study.roles[role]}: {len(self.roles[role])} of {self.planned[role]} seeds{mark}"

    def score(self) -> str:
        """How many cells are measured and how many targets are met."""
        begun = [role for role, results in self.roles.items() if results]
        met = sum(bool(line.met) for role in begun for line in self.lines(role))
        targets = sum(
            role in claim.roles for role in begun for claim in self.claims
        )  # a missing metric counts as missed
        text = f"{sum(map(len, self.roles.values()))} of {len(self.study.cells)} cells are measured"
        if targets:
            text += f"; {met} of {targets} targets are met"
            if any(self.planned[role] > len(results) > 0 for role, results in self.roles.items()):
                text += ", some of them by fewer seeds than planned"
        return text + "."


def lines(role: str, results: Sequence[Result], claims: Sequence[Claim]) -> list[Line]:
    """The metrics of a role: those of the report in its order, then those of the claims alone, then seconds."""
    by_metric = {claim.metric: claim for claim in claims if role in claim.roles}
    measured = dict.fromkeys(key for result in results for key in result["values"])
    reported = [metric.key for metrics in rows(measured).values() for metric in metrics]
    keys = [*reported, *(k for k in by_metric if k not in reported and k not in SECONDS), *SECONDS]
    lines = (_line(key, results, by_metric.get(key)) for key in keys)
    return [line for line in lines if line is not None]


def resolve_targets(claims: Sequence[Claim], role: str, roles: Mapping[str, Sequence[Result]]) -> list[Claim]:
    """The claims on a role, each with a number as its target; those relative to something unmeasured are left out."""
    out = []
    for claim in claims:
        if role not in claim.roles:
            continue
        base = claim.relative_to
        if base:
            cells = roles.get(base, roles[role])  # another role; else of this one, its baseline or another metric
            metric = claim.metric if base in (BASELINE, *roles) else base
            kind = BASELINE if base == BASELINE else "value"
            numbers = [float(v) for r in cells if (v := r["values"].get(metric, {}).get(kind)) is not None]
            if not numbers:
                continue
            claim = replace(claim, target=claim.target._replace(limit=claim.target.limit * fmean(numbers)))
        out.append(claim)
    return out


def unmeasured(role: str, roles: Mapping[str, Sequence[Result]], claims: Sequence[Claim]) -> list[Claim]:
    """Claims about a role without a measured number, or without one for what they are relative to."""
    resolved = resolve_targets(claims, role, roles)
    measured = {c.metric for c in resolved if any(value(r, c.metric) is not None for r in roles[role])}
    return [c for c in claims if role in c.roles and c.metric not in measured]


def value(cell: Result, key: str) -> float | None:
    """A metric of one cell; `ALL_SECONDS` is the sum of all its seconds."""
    if key == ALL_SECONDS:
        seconds = [entry["value"] for k, entry in cell["values"].items() if k.startswith("seconds.")]
        return sum(seconds) if seconds else None
    return cell["values"].get(key, {}).get("value")


def _line(key: str, results: Sequence[Result], claim: Claim | None) -> Line | None:
    measured = [r for r in results if value(r, key) is not None]
    if not measured:
        return None
    values = [float(v) for r in measured if (v := value(r, key)) is not None]
    baselines = [b for r in measured if (b := r["values"].get(key, {}).get(BASELINE)) is not None]
    mean, interval = fmean(values), t_interval(values) if len(set(values)) > 1 else None
    if key.startswith("planning.") and key.rpartition(".")[2] in SHARES:
        successes, pairs = solved(key, measured)
        mean, interval = sum(successes) / sum(pairs), share_over_seeds(successes, pairs)
    row = metric_of(key)
    label = claim.label if claim and claim.label else row.label if row else SECONDS.get(key, key)
    fmt = claim.format if claim and claim.format else row.format if row else "{:.0f}"
    low, high = interval or (None, None)
    baseline = fmean(baselines) if baselines else None
    return Line(key, label, fmt, len(values), mean, low, high, min(values), max(values), baseline, claim)


# --- planners -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannerLine:
    """One planner or baseline, over all pairs of all seeds."""

    name: str
    is_baseline: bool
    pairs: int
    success: float
    low: float | None  # None for a single seed
    high: float | None
    at_end: float | None
    path_ratio: float | None
    steps: float | None
    evaluations: float | None
    seconds: float | None


def solved(key: str, results: Sequence[Result]) -> tuple[list[int], list[int]]:
    """(successes, pairs) of 'planning.NAME.success' in each cell."""
    head = key.rpartition(".")[0]
    counts = [round(value(r, f"{head}.pairs") or 0) for r in results]
    return [round((value(r, key) or 0) * n) for r, n in zip(results, counts, strict=True)], counts


def planner_lines(results: Sequence[Result], baselines: Sequence[str]) -> list[PlannerLine]:
    """Planners first, baselines last; empty for cells without planning."""
    ending = ".success"
    keys = [k for r in results for k in r["values"] if k.startswith("planning.") and k.endswith(ending)]
    names = dict.fromkeys(key.removeprefix("planning.").removesuffix(ending) for key in keys)
    agents = [n for n in names if n not in ("best", *baselines)] + [n for n in baselines if n in names]
    out = []
    for name in agents:
        measured = [r for r in results if value(r, f"planning.{name}.success") is not None]
        successes, counts = solved(f"planning.{name}.success", measured)

        def mean(kind: str, name: str = name, measured: Sequence[Result] = measured) -> float | None:
            numbers = [v for r in measured if (v := value(r, f"planning.{name}.{kind}")) is not None]
            return fmean(numbers) if numbers else None

        low, high = share_over_seeds(successes, counts) or (None, None)
        rest = [mean(kind) for kind in ("success_end", "path_ratio", "steps", "evaluations", "seconds")]
        count = sum(counts)
        out.append(PlannerLine(name, name in baselines, count, sum(successes) / count, low, high, *rest))
    return out


def paired(results: Sequence[Result]) -> list[tuple[str, str, float, Interval | None, int]]:
    """(planner, other planner, difference of success, its interval over seeds, pairs)."""
    out = []
    for name in dict.fromkeys(name for r in results for name in r["pairs"]):
        cells = [r["pairs"][name] for r in results if name in r["pairs"]]
        first, second = ([cell[kind] for cell in cells] for kind in ("first", "second"))
        counts = [sum(cell.values()) for cell in cells]
        difference = (sum(first) - sum(second)) / sum(counts)
        one, other = name.split("|")
        out.append((one, other, difference, difference_over_seeds(first, second, counts), sum(counts)))
    return out
