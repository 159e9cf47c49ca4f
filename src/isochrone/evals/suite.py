"""Run every family of metrics that applies and fold their numbers into the results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isochrone.core.files import atomic_write
from isochrone.evals.context import Context, EvalConfig
from isochrone.evals.ground_truth import Act, random_actions, record
from isochrone.evals.metric import Estimate, Family, Refused, families, metric_of

Results = dict[str, dict[str, Any]]
"""{'family.name': {'value', and where they exist 'low', 'high', 'baseline', 'target', 'met', 'refused'}}, for JSON."""
NOT_FINITE = "it came out as no finite number: what it measures does not vary here, or the model has diverged"


def recording_context(
    model: Any,
    env: Any,
    config: EvalConfig,
    rng: torch.Generator | None = None,
    act: Act | None = None,
    **more: Any,
) -> Context:
    """A context with a recording of `env`, an environment with ground truth.

    Args:
        env: `config.episodes` environments (fewer are accepted).
        rng: default: a generator seeded with `config.seed`.
        act: chooses the recorded actions; default: uniformly at random.
        more: further fields of the context.
    """
    rng = rng or torch.Generator().manual_seed(config.seed)
    batch, truth = record(env, act or random_actions(env.spec), config.length, rng)
    return Context(model, config, rng, batch, truth, env, **more)


def evaluate(context: Context) -> tuple[Results, dict[str, Any]]:
    """(results, arrays of the figures) of every registered family whose needs are met."""
    results: Results = {}
    arrays: dict[str, Any] = {}
    for family in families():
        if family.applies(context):
            scoped = context if family.draw_order is not None else replace(context, rng=context.rng_of(family.name))
            outcome = compute(family, scoped)
            results |= outcome[0]
            arrays |= outcome[1]
    if context.truth is not None:
        arrays["recording.position"] = context.truth.position.cpu().numpy()
    return results, arrays


def compute(family: Family, context: Context) -> tuple[Results, dict[str, Any]]:
    """(results, arrays) of one family, with its full keys."""
    results: Results = {}
    arrays: dict[str, Any] = {}
    for name, value in family(context).items():
        key = f"{family.name}.{name}"
        if isinstance(value, (np.ndarray, list)):
            arrays[key] = value
        elif (entry := entry_of(key, value)) is not None:
            results[key] = entry
    return results, arrays


def entry_of(key: str, value: float | Refused) -> dict[str, Any] | None:
    """One number of the results with the target that its declaration sets; None for a number without declaration.

    A number that is not finite is refused, and a target that the baseline meets too says nothing: `met` is None.
    """
    metric = metric_of(key)
    if metric is None:
        return None
    entry: dict[str, Any] = {"value": None if isinstance(value, Refused) else _finite(value)}
    if entry["value"] is None:
        entry["refused"] = str(value) if isinstance(value, Refused) else NOT_FINITE
    if isinstance(value, Estimate):
        if value.interval is not None:
            entry |= {"low": _finite(value.interval[0]), "high": _finite(value.interval[1])}
        if value.baseline is not None:
            entry["baseline"] = _finite(value.baseline)
    if metric.target is not None:
        entry["target"], baseline = str(metric.target), entry.get("baseline")
        entry["met"] = entry["value"] is not None and metric.target.met(entry["value"])
        if entry["value"] is not None and baseline is not None and metric.target.met(baseline):
            entry["met"] = None
    return entry


def _finite(value: float) -> float | None:
    """JSON has no NaN: an undefined number is None."""
    return float(value) if math.isfinite(float(value)) else None


def values(results: Results) -> dict[str, float]:
    """{name: number} of every entry that has one: what a study stores and a sink writes."""
    return {k: v["value"] for k, v in results.items() if v["value"] is not None}


def write_results(path: Path, results: Results, about: Mapping[str, Any] | None = None) -> None:
    """results.json, whole or not at all. `about` (seeds, step, map) is stored beside the numbers."""
    atomic_write(path, json.dumps({"about": dict(about or {}), "results": results}, indent=1, allow_nan=False) + "\n")


def draw_all(arrays: Mapping[str, Any], theme: str = "light") -> dict[str, Any]:
    """{name: matplotlib Figure} of every registered figure whose arrays exist."""
    from isochrone.evals.figure import figures  # imports matplotlib

    drawn = {figure.name: figure(arrays, theme) for figure in figures()}
    return {name: image for name, image in drawn.items() if image is not None}
