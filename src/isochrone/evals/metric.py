"""Declarations of metrics: the name of each number, its format, its baseline and its target.

    @family("reach", REACHABILITY, needs=[HasDistance], env=[GroundTruth])
    @metric("reach.mae", "mean absolute error of d_p, actions", baseline="the best constant", target="<= 0.7")
    def reach(context): ...                      # -> {"mae": Estimate(0.4, interval=(0.3, 0.5), baseline=1.8)}

A family is a function that computes several metrics at once. Its declaration is all that the report, the terminal
table, the evidence page and the studies read. A number without a declaration is left out of the results.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from isochrone.core import registry

if TYPE_CHECKING:
    from isochrone.evals.context import Context

BASELINES = ("replay", "noop", "random")
"""Agents that use no model; every planner is compared with them on the same trials."""

Need = type | str | Callable[["Context"], bool]
"""A capability of the model (a protocol), a rollout field that it provides, or a condition on the context."""

SIGNS = {"<=": (operator.le, "≤"), ">=": (operator.ge, "≥"), "<": (operator.lt, "<")}


class Target(NamedTuple):
    """`value sign limit` must hold, e.g. value <= 0.7."""

    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From '<= 0.7'. ValueError where the sign is not one of <=, >=, <."""
        sign, _, limit = text.partition(" ")
        if sign not in SIGNS:
            raise ValueError(f"target '{text}' must begin with one of {', '.join(SIGNS)}")
        return cls(sign, float(limit))

    def met(self, value: float) -> bool:
        return SIGNS[self.sign][0](value, self.limit)

    def __str__(self) -> str:
        return f"{SIGNS[self.sign][1]} {self.limit:g}"


class Estimate(float):
    """A number with, where they exist, its 95 % interval and its baseline, measured on the same trials."""

    interval: tuple[float, float] | None
    baseline: float | None

    def __new__(
        cls, value: float, interval: tuple[float, float] | None = None, baseline: float | None = None
    ) -> Estimate:
        estimate = super().__new__(cls, value)
        estimate.interval, estimate.baseline = interval, baseline
        return estimate


class Refused(str):
    """Why a number could not be measured."""


@dataclass(frozen=True)
class Question:
    """A question that the report answers with the metrics of one or more families."""

    name: str
    text: str
    read: str  # how to read its numbers and figures
    order: int  # place in the report


@dataclass(frozen=True)
class Metric:
    """One number of the results.

    A key such as 'return.{agent}' stands for one number per agent. The first row of a question that was measured is
    its headline.
    """

    key: str
    label: str
    format: str = "{:.2f}"  # '%' writes a fraction as per cent
    baseline: str = ""  # what the baseline is
    target: Target | None = None
    detail: bool = False  # only in the list of all numbers
    column: bool = False  # of the table that has one row per agent
    watch: bool = False  # logged while training, every `train.eval_every` steps

    @property
    def is_pattern(self) -> bool:
        return "{" in self.key

    def match(self, key: str) -> str | None:
        """What stands in `key` for the placeholder; None where the key is another one."""
        head, _, tail = re.sub(r"\{\w+\}", "\0", self.key).partition("\0")
        fits = key.startswith(head) and key.endswith(tail) and len(key) > len(head) + len(tail)
        name = key[len(head) : len(key) - len(tail)] if fits else ""
        return name if name and ("." not in name or ":" in name) else None  # an import path has both

    def key_of(self, name: str) -> str:
        """The key with `name` for the placeholder."""
        return re.sub(r"\{\w+\}", name, self.key)

    def of(self, key: str) -> Metric:
        """The metric of one key that a pattern stands for."""
        name = self.match(key) or ""
        return replace(self, key=key, label=re.sub(r"\{\w+\}", name, self.label))


@dataclass(frozen=True)
class _Declared:
    """A function with the metrics declared above it so far."""

    function: Callable[[Context], Mapping[str, Any]]
    metrics: tuple[Metric, ...] = ()


def metric(
    key: str,
    label: str,
    format: str = "{:.2f}",
    *,
    baseline: str = "",
    target: str = "",
    detail: bool = False,
    column: bool = False,
    watch: bool = False,
) -> Callable[[Any], _Declared]:
    """Declare one number of the family below: its full key, its plain name, how to write it, what its baseline is and
    the target that the project set itself (e.g. '<= 0.7'). See `Metric` for the rest."""
    declared = Metric(key, label, format, baseline, Target.parse(target) if target else None, detail, column, watch)

    def add(below: Any) -> _Declared:
        below = below if isinstance(below, _Declared) else _Declared(below)
        return replace(below, metrics=(declared, *below.metrics))

    return add


class Family:
    """Metrics that one function computes: (context) -> {name: number, Estimate, Refused, array}."""

    def __init__(
        self,
        name: str,
        question: Question,
        needs: Sequence[Need],
        env: Sequence[type],
        draw_order: int | None,
        place: int,
        declared: _Declared,
    ) -> None:
        self.name, self.question, self.needs, self.env = name, question, tuple(needs), tuple(env)
        self.draw_order, self.place = draw_order, place
        self.metrics, self.compute = declared.metrics, declared.function
        update_wrapper(self, declared.function)

    def __call__(self, context: Context) -> Mapping[str, Any]:
        """The numbers and arrays, named without the family."""
        return self.compute(context)

    def applies(self, context: Context) -> bool:
        """Do the model, the environment and the context have all that it needs?"""
        return all(isinstance(context.env, need) for need in self.env) and all(_holds(n, context) for n in self.needs)


def _holds(need: Need, context: Context) -> bool:
    if isinstance(need, str):
        return need in context.model.provides
    if isinstance(need, type):
        return isinstance(context.model, need)
    return need(context)


def family(
    name: str,
    question: Question,
    needs: Sequence[Need] = (),
    env: Sequence[type] = (),
    draw_order: int | None = None,
    place: int = 1,
) -> Callable[[_Declared], Family]:
    """Register a family of metrics. It runs wherever its needs are met: `needs` of the model or the context, `env` of
    the environment (protocols).

    Random numbers come from `context.rng`: a stream of the family's own, so that a new family changes no other number.
    `draw_order` is for the families that share the recording's stream: their order in it. `place` orders the families
    of one question in the report; the one with place 0 has the headline.
    """

    def add(declared: _Declared) -> Family:
        new = Family(name, question, needs, env, draw_order, place, declared)
        wrong = [m.key for m in new.metrics if not m.key.startswith(f"{name}.")]
        if wrong:
            raise ValueError(f"metric '{wrong[0]}' of the family '{name}': its key must begin with '{name}.'")
        return registry.register("metric", name)(new)

    return add


# --- reading the declarations ---------------------------------------------------------------------------------------


def families() -> list[Family]:
    """Every registered family, in the order in which they run: those that share a random stream first."""
    return sorted(
        registry.components("metric", Family).values(), key=lambda f: (f.draw_order is None, f.draw_order or 0, f.name)
    )


def declared() -> list[tuple[Question, Metric]]:
    """Every metric with its question, in the order of the report."""
    ordered = sorted(families(), key=lambda f: (f.question.order, f.place, f.name))
    return [(family.question, metric) for family in ordered for metric in family.metrics]


def metric_of(key: str) -> Metric | None:
    """The declaration of one number of the results; an exact key wins over a pattern. None where there is none."""
    metrics = [metric for _, metric in declared()]
    exact = next((m for m in metrics if m.key == key), None)
    return exact or next((m.of(key) for m in metrics if m.is_pattern and m.match(key)), None)


def rows(keys: Iterable[str]) -> dict[Question, list[Metric]]:
    """The rows of the report for results with these keys, by question; a pattern gives one row for each agent."""
    keys, declarations = list(keys), declared()
    exact = {metric.key for _, metric in declarations if not metric.is_pattern}
    out: dict[Question, list[Metric]] = {}
    for question, metric in declarations:
        metrics = out.setdefault(question, [])
        if metric.detail or metric.column:
            continue
        if metric.is_pattern:
            metrics += [metric.of(key) for key in keys if key not in exact and metric.match(key)]
        elif metric.key in keys:
            metrics.append(metric)
    return out


def agent_columns(question: Question) -> list[Metric]:
    """The columns of the table of agents that a question has; empty for most."""
    return [metric for owner, metric in declared() if owner == question and metric.column]


def agents_of(column: Metric, keys: Iterable[str]) -> list[str]:
    """The agents with this number: those that use a model first, then the baselines."""
    names = list(dict.fromkeys(name for key in keys if (name := column.match(key)) and name != "best"))
    return [n for n in names if n not in BASELINES] + [n for n in BASELINES if n in names]
