"""The bars that the project set itself for the white-box world; shown beside each number, never used to compute one."""

from __future__ import annotations

import operator
from typing import NamedTuple


class Bar(NamedTuple):
    """`value sign limit` must hold."""

    sign: str
    limit: float

    def met(self, value: float) -> bool:
        return {"<=": operator.le, ">=": operator.ge, "<": operator.lt}[self.sign](value, self.limit)

    def __str__(self) -> str:
        return f"{ {'<=': '≤', '>=': '≥', '<': '<'}[self.sign] } {self.limit:g}"


BARS: dict[str, Bar] = {
    "reach.spearman": Bar(">=", 0.98),
    "reach.mae": Bar("<=", 0.7),
    "reach.asymmetry": Bar(">=", 0.95),
    "algebra.noop_ratio": Bar("<=", 0.05),
    "algebra.inverse_residual": Bar("<=", 0.15),
    "algebra.drift": Bar("<=", 0.1),
    "perception.spearman": Bar(">=", 0.95),
    "perception.pipe_ends_gap": Bar("<=", 0.05),
    "perception.position_error": Bar("<", 1.0),
    "disagreement.auroc": Bar(">=", 0.98),
    "belief.clock_r2": Bar("<=", 0.1),
    "belief.velocity_r2": Bar(">=", 0.95),
    "belief.velocity_r2_z": Bar("<=", 0.2),
    "return.share": Bar(">=", 0.95),
    "planning.best.success": Bar(">=", 0.99),
    "planning.best.path_ratio": Bar("<=", 1.05),
    "planning.cem.success": Bar(">=", 0.95),
}
