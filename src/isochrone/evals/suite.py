"""All measures that apply, from one recording: numbers with interval, floor and bar, and the arrays of the figures."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from isochrone.core import registry
from isochrone.core.config import option
from isochrone.core.files import atomic_write
from isochrone.core.types import Batch
from isochrone.evals.bars import BARS, Bar
from isochrone.evals.ground_truth import Act, random_act, record
from isochrone.evals.model_access import applies, device_of
from isochrone.evals.planning import Outcome, PlanPairs, baseline_agents, evaluate_agent, plan_pairs, summary

FLOORS = ("replay", "noop", "random")
Results = dict[str, dict[str, Any]]
"""{'family.name': {'value', and where known 'low', 'high', 'floor', 'bar', 'met', 'refused'}}, JSON-ready."""


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation costs and covers."""

    name: ClassVar[str] = "eval"
    episodes: int = option(64, "episodes recorded for the measures (at most one per environment row)", ge=2)
    length: int = option(64, "rows per recorded episode", ge=4)
    pairs: int = option(500, "held-out start and goal pairs for planning (0: no planning)", ge=0)
    horizon: int = option(16, "steps of the open-loop measures", ge=1)
    returns: int = option(32, "episodes played for the return, where the agent plans for reward", ge=1)
    budget: int = option(0, "environment steps per pair (0: twice the longest shortest path, plus 8)", ge=0)
    seed: int = option(7, "seed of recording and pairs; held apart from the training seed", ge=0)


def evaluate(
    model: Any,
    env: Any,
    config: EvalConfig,
    rng: torch.Generator | None = None,
    agents: Mapping[str, Any] | None = None,
    act: Act | None = None,
    clock: Callable[[], float] | None = None,
    bars: Mapping[str, Bar] = BARS,
) -> tuple[Results, dict[str, Any]]:
    """(results, arrays). Every registered measure runs whose methods the model has.

    Args:
        env: a white box with `config.episodes` rows (fewer rows are accepted and used).
        rng: defaults to a generator seeded with `config.seed`.
        agents: name -> Agent, each evaluated on the same pairs; the floors are always added when pairs > 0.
        clock: seconds, for the planners' cost (e.g. time.perf_counter).
    """
    rng = rng or torch.Generator().manual_seed(config.seed)
    batch, truth = record(env, act or random_act(env.spec), config.length, rng)
    flat = measured(model, batch, truth, config, rng)
    if config.pairs:
        flat |= plan_all(env, agents or {}, config, rng, clock, device_of(model))
    flat["recording.position"] = truth.position.cpu().numpy()
    return collect(flat, bars), arrays(flat)


def measured(model: Any, batch: Batch, truth: Any, config: EvalConfig, rng: torch.Generator) -> dict[str, Any]:
    """{'family.name': number or array} of every registered measure that applies; without truth, of those without it."""
    flat: dict[str, Any] = {}
    for family in registry.names("metric"):
        measure = registry.get("metric", family)
        if applies(measure, model) and (truth is not None or getattr(measure, "blind", False)):
            extra = {"horizon": config.horizon} if "horizon" in inspect.signature(measure).parameters else {}
            flat |= {f"{family}.{k}": v for k, v in measure(model, batch, truth, rng, **extra).items()}
    return flat


def plan_all(
    env: Any,
    agents: Mapping[str, Any],
    config: EvalConfig,
    rng: torch.Generator,
    clock: Callable[[], float] | None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Every agent and every floor on the same pairs; 'planning.best' repeats the agent with the most successes."""
    pairs = plan_pairs(env, config.pairs, rng)
    budget = config.budget or 2 * int(pairs.shortest.max()) + 8
    done: dict[str, Outcome] = {}
    for name, agent in {**agents, **baseline_agents(env, pairs)}.items():
        place = "cpu" if name in FLOORS else device
        done[name] = evaluate_agent(env, agent, pairs, budget, clock=clock, device=place, rng=rng)
    out: dict[str, Any] = {"planning.dropped": float(pairs.dropped), "planning.budget": float(budget)}
    ranked = sorted(
        agents, key=lambda n: (-done[n].any.mean(), np.nanmean(done[n].ratio) if done[n].any.any() else np.inf)
    )
    for name, outcome in done.items():
        out |= {f"planning.{name}.{k}": v for k, v in summary(outcome, rng).items()}
    if ranked:
        best = {k: v for k, v in out.items() if k.startswith(f"planning.{ranked[0]}.")}
        out |= {f"planning.best.{k.split('.', 2)[2]}": v for k, v in best.items()}
    if ranked:
        out["planning.best.success.floor"] = out["planning.random.success"]
        for name in ranked:
            out[f"planning.{name}.success.floor"] = out["planning.random.success"]
    return out | _pictures(done, pairs, ranked)


def _pictures(done: Mapping[str, Outcome], pairs: PlanPairs, ranked: list[str]) -> dict[str, Any]:
    names = [*ranked, *(n for n in done if n not in ranked)]
    out: dict[str, Any] = {
        "planning.agents": np.array(names),
        "planning.success": np.array([done[n].any for n in names]),  # (agents, P)
        "planning.ratio": np.array([done[n].ratio for n in names]),
        "planning.shortest": pairs.shortest.cpu().numpy(),
    }
    if ranked:
        out["planning.paths"] = done[ranked[0]].path  # (P, L, 2)
        out["planning.goals"] = pairs.goal.position.cpu().numpy()
        out["planning.paths_agent"] = np.array(ranked[0])
    return out


def arrays(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What figures draw from: everything that is not a single number."""
    return {k: v for k, v in flat.items() if isinstance(v, (np.ndarray, list))}


def collect(flat: Mapping[str, Any], bars: Mapping[str, Bar]) -> Results:
    """Fold 'x', 'x.interval', 'x.floor' and 'x.refused' into one entry per number; arrays are left out."""
    results: Results = {}
    for key, value in flat.items():
        head, _, role = key.rpartition(".")
        if role in ("interval", "floor", "refused"):
            entry = results.setdefault(head, {"value": None})
            entry.update(
                {"low": _plain(value[0]), "high": _plain(value[1])} if role == "interval" else {role: _plain(value)}
            )
        elif isinstance(value, (int, float)):
            results.setdefault(key, {"value": None})["value"] = _plain(value)
    for key, entry in results.items():
        if key in bars:
            entry["bar"] = str(bars[key])
            entry["met"] = entry["value"] is not None and bars[key].met(entry["value"])
    return results


def _plain(value: Any) -> Any:
    """JSON has no NaN: an unknown number is None."""
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(float(value)) else None


def values(results: Results) -> dict[str, float]:
    """{name: number} of everything that has one: what a study stores and a sink writes."""
    return {k: v["value"] for k, v in results.items() if v["value"] is not None}


def write_results(path: Path, results: Results, about: Mapping[str, Any] | None = None) -> None:
    """results.json, whole or not at all. `about` (seeds, step, map) is stored beside the numbers."""
    atomic_write(path, json.dumps({"about": dict(about or {}), "results": results}, indent=1, allow_nan=False) + "\n")


def read_results(path: Path) -> Results:
    """What `write_results` stored."""
    return json.loads(Path(path).read_text(encoding="utf-8"))["results"]


def draw_all(arrays: Mapping[str, Any], theme: str = "light") -> dict[str, Any]:
    """{name: Figure} of every figure whose arrays are there."""
    drawn = {name: registry.get("figure", name)(arrays, theme) for name in registry.names("figure")}
    return {name: figure for name, figure in drawn.items() if figure is not None}
