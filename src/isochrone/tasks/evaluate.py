"""Evaluate a trained run: every measure that applies, planning beside its floors, results.json and figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isochrone import build
from isochrone.core.config import to_dict
from isochrone.evals import store, suite
from isochrone.evals.suite import Results
from isochrone.tasks.trained import Trained, has_truth, held_out

DARK = ".dark"
"""Ending of the names of figures for dark screens."""


def evaluate_run(trained: Trained, say: Callable[[str], None] = build.silent, figures: bool = True) -> Results:
    """Measure, write results.json and figures/STEP/; returns the results.

    A world without ground truth (or a recording) gives the losses on held-out lanes only.
    """
    config, run = trained.config, trained.run
    results, arrays = _unseen(trained), {}
    recorded = config.data.path is not None and not trained.asked_env
    env: Any = None if recorded else trained.world(config.eval.episodes)
    if env is not None and has_truth(env):
        agents = {
            name: build.make_agent(config, trained.model, name) for name in (config.planner.name, *config.compare)
        }
        pairs = f", planning between {config.eval.pairs} pairs with {', '.join(agents)}" if config.eval.pairs else ""
        say(f"measuring {run.path} at step {trained.step}{pairs}")
        found, arrays = suite.evaluate(trained.model, env, config.eval, agents=agents, clock=time.perf_counter)
        results |= found
    else:
        why = "a recording comes without ground truth: add --env whitebox:MAP if it shows the white box"
        say(f"losses on held-out lanes only; {why if recorded else 'this world has no ground truth to measure with'}")
    about = {
        "step": trained.step,
        "train_seed": config.train.seed,
        "eval_seed": config.eval.seed,
        "env": to_dict(config.env),
    }
    if figures and arrays:
        save_figures(run.figures(trained.step), arrays)
    suite.write_results(run.path / "results.json", results, about)
    return results


def _unseen(trained: Trained) -> Results:
    """{'held_out.NAME': ...} of every loss; empty when the replay was deleted."""
    folder = trained.run.path / "replay"
    if not (folder / "complete.json").exists():
        return {}
    replay = build.fill_replay(trained.config, folder)
    total = build.make_total(trained.config, trained.model)
    found = held_out(trained.config, total, replay, build.training_lanes(trained.config, replay)[1])
    return {f"held_out.{name.removeprefix('loss/')}": {"value": value} for name, value in found.items()}


def save_figures(folder: Path, arrays: dict[str, Any]) -> None:
    """Every figure in both themes, and the arrays that they were drawn from."""
    store.save_figures(folder, suite.draw_all(arrays))
    store.save_figures(folder, {f"{name}{DARK}": figure for name, figure in suite.draw_all(arrays, "dark").items()})
    store.save_arrays(folder / "arrays.json", arrays)


def newest_figures(run_figures: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(light, dark) PNG bytes by name, of the newest step that has figures."""
    steps = sorted(f for f in run_figures.glob("*") if f.name.isdigit() and any(f.glob("*.png")))
    found = {f.stem: f.read_bytes() for f in sorted(steps[-1].glob("*.png"))} if steps else {}
    light = {name: image for name, image in found.items() if not name.endswith(DARK)}
    return light, {name.removesuffix(DARK): image for name, image in found.items() if name.endswith(DARK)}
