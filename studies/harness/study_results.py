"""What a study has to tell: its results and claims by role, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.harness import result
from studies.harness import study as plan
from studies.harness.aggregate import Line, lines, settled

from isochrone.evals.report import write_number


class Told:
    """A study with its results and claims, by role."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.study = name, plan.load(name, root)
        self.claims = plan.claims(name, self.study, root)
        found = result.read_all(root, name, self.study)
        self.roles: dict[str, list[dict[str, Any]]] = {role: [] for role in self.study.roles}
        self.asked = dict.fromkeys(self.study.roles, 0)
        self.stale: dict[str, int] = dict.fromkeys(self.study.roles, 0)
        for cell in self.study.cells:
            self.asked[cell.role] += 1
            if cell.name in found:
                self.roles[cell.role].append(found[cell.name])
                self.stale[cell.role] += result.state(root, self.study, cell, found[cell.name]) == "stale"

    def lines(self, role: str) -> list[Line]:
        return lines(role, self.roles[role], settled(self.claims, role, self.roles))

    def heading(self, role: str) -> str:
        """'zhp on pipes: 5 of 5 seeds'."""
        mark = " †" if self.stale[role] else ""
        return f"{self.study.roles[role]}: {len(self.roles[role])} of {self.asked[role]} seeds{mark}"

    def score(self) -> str:
        """How many cells and bars."""
        begun = [role for role, found in self.roles.items() if found]
        met = sum(bool(line.met) for role in begun for line in self.lines(role))
        bars = sum(role in claim.roles for role in begun for claim in self.claims)  # a number that is missing misses
        said = f"{sum(map(len, self.roles.values()))} of {len(self.study.cells)} cells are measured"
        if bars:
            said += f"; {met} of {bars} bars are met"
            short = sum(self.asked[role] > len(found) > 0 for role, found in self.roles.items())
            said += ", some of them by fewer seeds than asked for" if short else ""
        return said + "."


def interval(line: Line) -> str:
    """'0.98 … 0.99'; nothing where one seed tells none."""
    if line.low is None or line.high is None:
        return ""
    return f"{write_number(line.low, line.style).removesuffix(' %')} … {write_number(line.high, line.style)}"


def spread(line: Line) -> str:
    """'0.97 … 0.99': the lowest and the highest seed."""
    return f"{write_number(line.least, line.style).removesuffix(' %')} … {write_number(line.most, line.style)}"


def bar(line: Line) -> str:
    """'≥ 99 %: met'."""
    if line.claim is None:
        return ""
    sign, _, limit = str(line.claim.bar).partition(" ")
    limit = f"{100 * line.claim.bar.limit:g} %" if line.style == "%" else limit
    limit = write_number(line.claim.bar.limit, line.style) if line.claim.of else limit
    return f"{sign} {limit}: {'met' if line.met else 'missed'}"


def cells(line: Line) -> list[str]:
    """One row of a role's table."""
    floor = "" if line.floor is None else write_number(line.floor, line.style)
    mean = write_number(line.mean, line.style)
    return [line.label, mean, interval(line), spread(line), str(line.count), floor, bar(line)]


def pipe_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body])
