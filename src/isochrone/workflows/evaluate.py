"""Evaluate a trained run: every family of metrics that applies, and its figures."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from isochrone.core import gate
from isochrone.core.config import to_dict
from isochrone.core.errors import UserError
from isochrone.core.protocols import GroundTruth
from isochrone.core.types import Batch
from isochrone.data.replay import row_bytes
from isochrone.evals import store, suite
from isochrone.evals.context import Context
from isochrone.evals.progress import Progress
from isochrone.evals.suite import Results
from isochrone.training.device import compute_settings, generator
from isochrone.workflows import dataset, factory, requirements
from isochrone.workflows.loaded_run import LoadedRun, holdout_losses

log = logging.getLogger(__name__)
PNG = b"\x89PNG\r\n\x1a\n"
DARK = ".dark"
"""Ending of the names of figures for dark screens."""


def evaluate_run(trained: LoadedRun, figures: bool = True, progress: Progress | None = None) -> Results:
    """Evaluate, write results.json and figures/STEP/; returns the results. `progress` is called while agents act."""
    config, run = trained.config, trained.run
    results, arrays = evaluate(trained, progress)
    about: dict[str, Any] = {
        "step": trained.step,
        "train_seed": config.train.seed,
        "eval_seed": config.eval.seed,
        "env": to_dict(config.env),
    }
    if trained.damaged:
        about["damaged"] = list(trained.damaged)
    try:
        if figures and arrays:
            save_figures(run.figures(trained.step), arrays)
        suite.write_results(run.path / "results.json", results, about)
    except UserError as error:  # an archive on a read-only drive, say: the numbers are there all the same
        log.warning("the results are not kept in the run: %s", error)
    return results


def evaluate(trained: LoadedRun, progress: Progress | None = None) -> tuple[Results, dict[str, Any]]:
    """(results, arrays of the figures) of every family of metrics that applies to the run."""
    with context_of(trained) as context:
        return suite.evaluate(replace(context, progress=progress))


@contextmanager
def context_of(trained: LoadedRun) -> Iterator[Context]:
    """What the run can be evaluated with.

    A recording of the environment where it has ground truth, else windows never trained on. Agents plan between pairs
    of places, or play whole episodes where they need no goal.
    """
    with compute_settings(trained.config.train):
        yield from _context_of(trained)


def _context_of(trained: LoadedRun) -> Iterator[Context]:
    config = trained.config
    recording = config.eval.episodes * config.eval.length * row_bytes(trained.spec)
    requirements.check_memory(recording, "the recording to measure on", "lower eval.episodes or eval.length")
    foreign = config.data.path is not None and not trained.env_changed  # a recording, and no environment
    has_replay = dataset.kept_replay(trained.run.path / "replay")
    if foreign and not has_replay:
        raise UserError(
            f"the replay of {trained.run.path} was deleted, and without it there is nothing to measure on: restore it, "
            "or choose an environment that the recording shows, such as --env whitebox:MAP"
        )
    env: Any = None if foreign else trained.make_env(config.eval.episodes)
    agents = factory.make_agents(config, trained.learner)
    goals = all(agent.needs_goal for agent in agents.values())
    learns_reward = "reward" in config.loss and config.loss["reward"].weight > 0
    plays = not foreign and not goals and learns_reward
    if not has_replay:
        log.info("the replay of %s was deleted: the losses on the holdout are not measured", trained.run.path)
    more: dict[str, Any] = {
        "agents": agents,
        "plans_to_goals": goals,
        "make_env": trained.make_env if plays else None,
        "holdout_losses": partial(_holdout_losses, trained) if has_replay else None,
        "clock": time.perf_counter,
        "stream": partial(generator, config.eval.seed),
    }
    log.info("evaluating %s at step %d with %s", trained.run.path, trained.step, ", ".join(agents))
    with ExitStack() as stack:
        if env is not None:
            stack.callback(env.close)
        if isinstance(env, GroundTruth):
            yield suite.recording_context(trained.model, env, config.eval, **more)
        else:
            hint = ": add --env whitebox:MAP if the recording shows it" if foreign else ""
            log.info("on the holdout, without ground truth%s", hint)
            rng = generator(config.eval.seed, "holdout evaluation")
            yield Context(trained.model, config.eval, rng, _holdout_batch(trained, rng), env=env, **more)


def _holdout_batch(trained: LoadedRun, rng: Any) -> Batch | None:
    """Windows that were never trained on; None where the replay was deleted."""
    if not dataset.kept_replay(trained.run.path / "replay"):
        return None
    config = trained.config
    replay = dataset.open_replay(trained.run.path / "replay", write=False)
    envs = dataset.holdout_split(config, replay)[1]
    rows = replay.stored()[envs]  # those too short for a training window are left out, as in training
    length = min(config.eval.length, int(rows[rows >= min(config.train.length, rows.max())].min()))
    return replay.sample(config.eval.episodes, length, rng, envs)


def _holdout_losses(trained: LoadedRun) -> Mapping[str, float]:
    """{name: mean over batches never trained on} of every loss and of their weighted sum ('loss')."""
    config = trained.config
    replay = dataset.open_replay(trained.run.path / "replay", write=False)
    total = factory.make_objective(config, trained.learner)
    losses = holdout_losses(config, total, replay, dataset.holdout_split(config, replay)[1])
    return {name.removeprefix("loss/"): value for name, value in losses.items()}


def save_figures(folder: Path, arrays: dict[str, Any]) -> None:
    """Every figure in both themes, and the arrays that they were drawn from."""
    store.save_figures(folder, suite.draw_all(arrays))
    store.save_figures(folder, {f"{name}{DARK}": figure for name, figure in suite.draw_all(arrays, "dark").items()})
    store.save_arrays(folder / "arrays.json", arrays)


def newest_figures(run_figures: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(light, dark) PNG bytes by name, of the newest step that has figures. UserError for a file that is no image."""
    if not gate.exists(run_figures):
        return {}, {}
    steps = sorted(f for f in gate.check_folder(run_figures).glob("*") if re.fullmatch("[0-9]{8,18}", f.name))
    pages = [sorted(gate.check_folder(step).glob("*.png")) for step in steps]
    images = {f.stem: _read_png(f) for f in next((page for page in reversed(pages) if page), [])}
    light = {name: image for name, image in images.items() if not name.endswith(DARK)}
    return light, {name.removesuffix(DARK): image for name, image in images.items() if name.endswith(DARK)}


def _read_png(path: Path) -> bytes:
    image = gate.read_bytes(path)
    if not image.startswith(PNG):
        raise UserError(f"{path} is no PNG image: measure the run again, or move the file away")
    return image
