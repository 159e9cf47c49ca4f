"""The Python interface: what the commands do, as functions. Documented in docs/python.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isochrone.core.errors import UserError
from isochrone.evals.suite import Results
from isochrone.workflows import evaluate as evaluation
from isochrone.workflows import loaded_run
from isochrone.workflows import plan as planning
from isochrone.workflows import train as training
from isochrone.workflows.factory import make_config
from isochrone.workflows.loaded_run import LoadedRun
from isochrone.workflows.plan import PlanEpisode


def train(
    recipe: str | None = None,
    run: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    trust: bool = False,
    restart: bool = False,
    console: bool = True,
    **changes: Any,
) -> LoadedRun:
    """Train a recipe in a new run folder, or resume a run; Ctrl-C stops with a checkpoint.

    Args:
        recipe: a name (`isochrone list recipe`), or an import path 'package.module:function'.
        run: the folder to create; default: the first free runs/RECIPE-N.
        resume: a run folder to continue instead, with its own config; only train={"accelerator", "device", "threads"}
            may differ.
        trust: when resuming, import code from outside isochrone that the run's config names.
        restart: when resuming, start over at step 0; the old checkpoints are kept under another name.
        console: show progress on standard error.
        changes: options of the config, nested: env="whitebox:pipes", train={"steps": 100}, loss={"jepa": 0.5}.

    Returns:
        The run with the weights of its newest checkpoint.

    Raises:
        UserError: whatever cannot be trained; nothing is left in the folder then.
    """
    if resume is not None:
        if recipe is not None or run is not None:
            raise UserError("train: a run is resumed with its own config: leave out recipe and run")
        ready = training.resume(Path(resume), trust, dict(_flat(changes)), restart)
    elif recipe is None:
        raise UserError("train: give a recipe, such as train('tiny'), or resume=RUN")
    else:
        folder = training.free_folder(Path("runs"), recipe) if run is None else Path(run)
        ready = training.create_run(make_config(recipe, dict(_flat(changes))), folder)
    with ready:
        ready.fit(console)
    return loaded_run.load(ready.run.path, {} if resume is None else dict(_flat(changes)))


def load(run: str | Path, *, trust: bool = False, **changes: Any) -> LoadedRun:
    """A trained run: its config, and its model with the newest weights.

    Args:
        run: the run folder.
        trust: import code from outside isochrone that the run's config names.
        changes: options that may differ from the training: env, eval, agent, planner, compare_planners.

    Raises:
        UserError: no run or checkpoint, code that is not trusted, or an option that cannot be changed.
    """
    return loaded_run.load(run, dict(_flat(changes)), trust)


def evaluate(run: LoadedRun | str | Path, *, figures: bool = True) -> Results:
    """Measure a run; also writes results.json and figures/STEP/ in its folder.

    Returns:
        {key: {"value", "low", "high", "baseline", "target", "met"}} of every metric that applies.
    """
    return evaluation.evaluate_run(_loaded(run), figures)


def plan(
    run: LoadedRun | str | Path, start: tuple[int, int] | None = None, goal: tuple[int, int] | None = None
) -> PlanEpisode:
    """Plan with the model of a run from cell `start` to cell `goal` (column, row), and execute the plan.

    The default of each end is the cell farthest from the other one. UserError where the environment has no ground
    truth, no such cell, or no way to the goal.
    """
    return planning.execute_plan(_loaded(run), start, goal, time.perf_counter)


def _loaded(run: LoadedRun | str | Path) -> LoadedRun:
    return run if isinstance(run, LoadedRun) else loaded_run.load(run)


def _flat(changes: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as (dotted name, value)."""
    for name, value in changes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
