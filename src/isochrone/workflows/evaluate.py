"""Evaluate a trained run: every measure that applies, planning or returns beside their floors, results and figures."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from isochrone.core.config import to_dict
from isochrone.core.protocols import Agent, GroundTruth, HasLinearSystem, TwoFutures
from isochrone.evals import store, suite
from isochrone.evals.bars import BARS
from isochrone.evals.likelihood import bounds
from isochrone.evals.multimodality import forks
from isochrone.evals.returns import cost, earned
from isochrone.evals.suite import Results
from isochrone.train.device import generator
from isochrone.workflows import dataset, factory
from isochrone.workflows.loaded_run import LoadedRun, holdout_losses

log = logging.getLogger(__name__)
Found = tuple[Results, dict[str, Any]]
"""(results, arrays of the figures)."""
DARK = ".dark"
"""Ending of the names of figures for dark screens."""


def evaluate_run(trained: LoadedRun, figures: bool = True) -> Results:
    """Measure, write results.json and figures/STEP/; returns the results."""
    config, run = trained.config, trained.run
    results, arrays = measure(trained)
    results = _unseen(trained) | results
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


def measure(trained: LoadedRun) -> Found:
    """Everything that can be measured of this model in this world.

    Against the truth where the world tells it, else on windows never trained on; then plans between pairs of places, or
    returns where the agent plans for reward.
    """
    config = trained.config
    recorded = config.data.path is not None and not trained.env_changed
    env: Any = None if recorded else trained.make_env(config.eval.episodes)
    agents = factory.make_agents(config, trained)
    seeks = all(agent.needs_goal for agent in agents.values())
    try:
        if env is not None and isinstance(env, GroundTruth):
            log.info("measuring %s at step %d", trained.run.path, trained.step)
            if config.eval.pairs and seeks:
                log.info("planning between %d pairs with %s", config.eval.pairs, ", ".join(agents))
            asked = config.eval if seeks else replace(config.eval, pairs=0)
            found = suite.evaluate(trained.model, env, asked, agents=agents, clock=time.perf_counter)
        else:
            why = "a recording comes without ground truth: add --env whitebox:MAP if it shows the white box"
            log.info("measuring on the holdout; %s", why if recorded else "this environment has no ground truth")
            found = _blind(trained)
            found = found if env is None else _with(found, _special(trained, env))
    finally:
        if env is not None:
            env.close()
    learns_reward = "reward" in config.loss and config.loss["reward"].weight > 0
    if recorded or seeks or not learns_reward:
        return found
    return _with(found, _earned(trained, agents))


def _special(trained: LoadedRun, env: Any) -> dict[str, Any]:
    """What only some worlds can tell: both futures of a fork, or the exact likelihood."""
    seed, flat = trained.config.eval.seed, {}
    if isinstance(env, TwoFutures):
        flat |= forks(trained.model, env, generator(seed, "multimodality"), trained.config.eval.horizon)
    if isinstance(env, HasLinearSystem):
        flat |= bounds(trained.model, env, generator(seed, "likelihood"))
    return flat


def _with(found: Found, flat: dict[str, Any]) -> Found:
    """Results and arrays, and more of both."""
    return found[0] | suite.collect(flat, BARS), found[1] | suite.arrays(flat)


def _blind(trained: LoadedRun) -> Found:
    """What needs no ground truth, on windows that were never trained on; nothing when the replay was deleted."""
    folder, config = trained.run.path / "replay", trained.config
    if not (folder / "complete.json").exists():
        return {}, {}
    replay = dataset.fill_replay(config, folder)
    rng = generator(config.eval.seed, "holdout evaluation")
    envs = dataset.holdout_split(config, replay)[1]
    length = min(config.eval.length, int(replay.stored()[envs].min()))
    batch = replay.sample(config.eval.episodes, length, rng, envs)
    flat = suite.measured(trained.model, batch, None, config.eval, rng)
    return suite.collect(flat, BARS), suite.arrays(flat)


def _earned(trained: LoadedRun, agents: dict[str, Agent]) -> dict[str, Any]:
    """Returns of whole episodes, one in each of `eval.returns` worlds, and what drawing frames would cost the planner;
    the white box knows the best possible."""
    config = trained.config
    env = trained.make_env(config.eval.returns)
    names = ", ".join(agents)
    log.info("playing %d episodes with %s, then doing nothing, then at random", config.eval.returns, names)
    try:
        rng = generator(config.eval.seed, "returns")
        found = earned(env, agents, config.eval.seed, rng, trained.device)
        return found | (cost(trained.model, time.perf_counter) if "image" in env.spec.obs else {})
    finally:
        env.close()


def _unseen(trained: LoadedRun) -> Results:
    """{'held_out.NAME': ...} of every loss; empty when the replay was deleted."""
    folder = trained.run.path / "replay"
    if not (folder / "complete.json").exists():
        return {}
    replay = dataset.fill_replay(trained.config, folder)
    total = factory.make_objective(trained.config, trained.model)
    found = holdout_losses(trained.config, total, replay, dataset.holdout_split(trained.config, replay)[1])
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
