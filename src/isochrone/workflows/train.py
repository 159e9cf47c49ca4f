"""Train a recipe in a run folder. Whatever can be refused is refused before the folder is created."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from isochrone.core import gate
from isochrone.core.config import to_dict
from isochrone.core.errors import UserError
from isochrone.core.files import writing
from isochrone.core.protocols import GroundTruth, Sink
from isochrone.core.types import Spec
from isochrone.data.episode import read_spec
from isochrone.data.replay import ReplayBuffer
from isochrone.evals import suite
from isochrone.evals.metric import metric_of
from isochrone.evals.metrics.returns import play_episodes
from isochrone.losses.liveness import Liveness, liveness
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.training import checkpoint
from isochrone.training.console import Console
from isochrone.training.device import compute_settings, device_of, generator
from isochrone.training.loop import FitResult, Hook, fit
from isochrone.training.run import Run
from isochrone.training.sinks import open_sinks
from isochrone.workflows import dataset, factory, requirements
from isochrone.workflows.loaded_run import SPEC, check_hash, holdout_losses, read_config
from isochrone.workflows.replay_source import ReplaySource

log = logging.getLogger(__name__)
CALIBRATION_BATCHES, CALIBRATION_FRAMES = 8, 64
RESUME_OPTIONS = ("train.accelerator", "train.device", "train.threads")
"""Options that may be changed when a run is resumed: they say where it computes."""


def free_folder(root: Path, name: str) -> Path:
    """root/NAME-1, or the first number that is free; of an import path the last part."""
    name, number = name.rpartition(":")[2], 1
    while (root / f"{name}-{number}").exists():
        number += 1
    return root / f"{name}-{number}"


@dataclass(frozen=True)
class Training:
    """A locked run folder and what will be trained in it. A context manager that releases the folder."""

    run: Run
    config: Config
    spec: Spec
    objective: TrainingObjective
    is_new: bool  # this command made the folder, and removes it again when it is refused

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.run.close()

    def fit(self, console: bool = True) -> FitResult:
        """Train with every sink that is installed, and progress on standard error if `console`."""
        names = ["jsonl", *(["tensorboard"] if find_spec("tensorboard") else [])]
        with compute_settings(self.config.train), self.run.report_loss(), ExitStack() as stack:
            sinks: list[Sink] = open_sinks(names, self.run, self.config.train.steps)
            tick: Callable[[int], None] | None = None
            if console:
                screen = Console(Console.Config(), self.run, self.config.train.steps)
                sinks, tick = [*sinks, screen], screen.tick
            for sink in sinks:
                stack.enter_context(closing(sink))
            return fit_run(self, sinks, tick)


def create_run(config: Config, path: Path) -> Training:
    """A new run folder. UserError, and no folder, for a config that cannot be trained."""
    with compute_settings(config.train):
        spec, objective = build_all(config)
        check_requirements(config, spec, objective, path)
        run = Run.create(path, to_dict(config))
    try:
        factory.keep_file(config, run.path)
        dataset.write_spec(run.path / SPEC, spec)
    except BaseException:
        run.close()
        raise
    return Training(run, config, spec, objective, is_new=True)


def resume(
    path: Path, trust: bool = False, changes: Mapping[str, Any] | None = None, restart: bool = False
) -> Training:
    """An existing run folder, locked, with newly initialised weights: `fit_run` loads the newest checkpoint.

    Args:
        trust: import code from outside isochrone that the run's config names.
        changes: options by dotted name, out of `RESUME_OPTIONS`, for this process: config.json keeps its own.
        restart: start over at step 0; the checkpoints are kept under another name.

    Raises:
        UserError: no checkpoint can be read, or a file of the run is damaged; the folder is then as it was.
    """
    run = Run.open(path)
    try:
        wrong = [name for name in changes or {} if name not in RESUME_OPTIONS]
        if wrong:
            allowed = ", ".join(RESUME_OPTIONS)
            option = wrong[0].replace("_", "-")
            raise UserError(f"a run is resumed with its own config: leave out --{option} (only {allowed} may change)")
        config = factory.with_kept_file(read_config(run, trust), run.path)
        config = factory.with_changes(config, changes or {})
        device_of(config.train)
        check_files(run)
        newest = None if restart else newest_checkpoint(run)
        if newest is not None:
            check_hash(run, newest)
        stored = run.path / SPEC
        known = read_spec(stored) if gate.exists(stored) else None
        if known is None and newest is not None:
            log.warning("%s is missing: it is made again from the config", stored)
        with compute_settings(config.train):
            spec, objective = build_all(config, known)
            check_requirements(config, spec, objective, path)
        if newest is not None:
            checkpoint.load_weights(newest, objective.learner, run.config_hash)  # before anything is written
        elif restart:
            start_over(run, config)
        if known is None:
            dataset.write_spec(stored, spec)
        return Training(run, config, spec, objective, is_new=False)
    except BaseException:
        run.close()
        raise


def check_files(run: Run) -> None:
    """UserError for a file that a resumed training will add to, and that is damaged."""
    run.versions()
    run.rows()
    for name in ("figures", "crash", "replay", "checkpoints"):
        gate.check_folder(run.path / name)


def newest_checkpoint(run: Run) -> Path | None:
    """The checkpoint to go on from; None where training was killed before the first one.

    UserError, with what is wrong with each, where there was a checkpoint and none can be read.
    """
    newest = run.newest()
    newest.warn()
    began = max((row["step"] for row in run.rows()), default=0)
    if newest.folder is None and (newest.damaged or began):
        what = f"can be read: {'; '.join(newest.damaged)}" if newest.damaged else f"is left, and it was at step {began}"
        raise UserError(
            f"no checkpoint of {run.path} {what}: restore it from a copy, or start over at step 0 with --restart"
        )
    if newest.folder is None:
        log.warning("%s has no checkpoint yet: training begins at step 0", run.path)
    return newest.folder


def start_over(run: Run, config: Config) -> None:
    """Give the checkpoints and metrics of a run other names; the replay too, unless it is as it was recorded."""
    changed = [run.checkpoints, run.metrics]
    replay = run.path / "replay"
    try:
        if config.data.period or not dataset.has_replay(replay):
            changed.append(replay)
        else:
            dataset.open_replay(replay, write=False)
    except UserError as error:
        log.warning("%s", error)
        changed.append(replay)
    number = 1
    while any(gate.exists(path.with_name(f"{path.name}.old-{number}")) for path in changed):
        number += 1
    for path in changed:
        if gate.exists(path):
            aside = path.with_name(f"{path.name}.old-{number}")
            with writing(aside):
                path.rename(aside)
            log.warning("%s is now %s", path, aside.name)


def build_all(config: Config, spec: Spec | None = None) -> tuple[Spec, TrainingObjective]:
    """Spec, and losses with their model. Every agent is built once too, so that a wrong option is refused now."""
    is_new = spec is None
    spec = factory.spec_of(config) if spec is None else spec
    if config.data.path is None:
        dataset.check_budget(config, spec)
    elif is_new:
        dataset.check_recording(config, spec)
    requirements.check_weights(config, spec)
    objective = factory.make_objective(config, factory.make_learner(config, spec))
    factory.make_agents(config, objective.learner)
    return spec, objective


def check_requirements(config: Config, spec: Spec, objective: TrainingObjective, folder: Path) -> None:
    """Say what the training will need in memory and on disk. UserError where this machine has less."""
    recorded = (folder / "replay" / dataset.COMPLETE).exists()
    replay = 0 if recorded else dataset.replay_bytes(config, spec)
    requirements.check(requirements.estimate(config, spec, objective, replay), config, folder)


def fit_run(training: Training, sinks: Sequence[Sink], tick: Callable[[int], None] | None = None) -> FitResult:
    """Prepare the data, check every loss, then train to `train.steps` or a signal. `tick` is called at every step."""
    with compute_settings(training.config.train):
        return _fit_run(training, sinks, tick)


def _fit_run(training: Training, sinks: Sequence[Sink], tick: Callable[[int], None] | None) -> FitResult:
    run, config, objective = training.run, training.config, training.objective
    begins = run.newest().folder is None
    try:
        if not begins and not dataset.kept_replay(run.path / "replay"):
            log.warning("the replay of %s was deleted: it is made again", run.path)
        replay = dataset.fill_replay(config, run.path / "replay")
        envs, holdout = dataset.holdout_split(config, replay)
        if begins:
            calibrate(config, objective, replay, envs)
            check_losses(config, objective, replay)
    except UserError:
        if training.is_new:
            _remove(run)
        raise
    log.info(_setup_text(config))
    source = ReplaySource(config, replay, objective, envs)
    hooks = eval_hooks(config, objective, replay, holdout) if config.train.eval_every else []
    stateful = {"replay": replay, "source": source}
    return fit(objective, source, config.train, config.optim, run, sinks, hooks, stateful, tick)


def calibrate(config: Config, objective: TrainingObjective, replay: ReplayBuffer, envs: Sequence[int]) -> None:
    """Let the model measure what it does not learn (such as a mean frame), on frames of the training environments."""
    rng = generator(config.train.seed, "calibrate")
    objective.model.calibrate(replay.sample(CALIBRATION_FRAMES, 1, rng, envs) for _ in range(CALIBRATION_BATCHES))


def probe_losses(config: Config, objective: TrainingObjective, replay: ReplayBuffer, windows: int = 8) -> Liveness:
    """Value and gradient norms of every loss on two real batches, and what is wrong with any."""
    rng = generator(config.train.seed, "liveness")
    size, envs = min(config.train.batch, windows), dataset.holdout_split(config, replay)[0]
    batches = [replay.sample(size, config.train.length, rng, envs) for _ in range(2)]
    return liveness(objective, batches, config.train.seed)


def check_losses(config: Config, objective: TrainingObjective, replay: ReplayBuffer) -> None:
    """Log each loss's value and gradient norms; UserError for a dead one, or a warning with `allow_dead_losses`."""
    report = probe_losses(config, objective, replay)
    log.info("losses on two real batches: value, then gradient per group of weights")
    for line in report.table().splitlines():
        log.info("  %s", line)
    for weight in report.unmoved:
        log.warning("no loss moves %s, though a loss declares its group", weight)
    if not report.faults:
        log.info("every loss is alive")
    elif config.allow_dead_losses:
        for fault in report.faults:
            log.warning(fault)
    else:
        more = "" if len(report.faults) == 1 else f" (and {len(report.faults) - 1} more)"
        raise UserError(f"{report.faults[0]}{more}: set its weight to 0, or pass --allow-dead-losses")


def eval_hooks(
    config: Config, objective: TrainingObjective, replay: ReplayBuffer, holdout: Sequence[int]
) -> list[Hook]:
    """What is measured during training: the losses on the holdout; and returns, or geometry where ground truth is."""

    def holdout_loss(step: int, objective: torch.nn.Module) -> dict[str, float]:
        losses = holdout_losses(config, cast(TrainingObjective, objective), replay, holdout)
        return {"holdout.loss": losses["loss"]}

    if config.data.path is not None:
        return [holdout_loss]
    if not factory.make_agent(config, objective.learner).needs_goal:
        return [holdout_loss, return_hook(config)]
    env: Any = factory.make_env(config, config.eval.episodes)
    if not isinstance(env, GroundTruth):
        return [holdout_loss]
    without_planning = replace(config.eval, pairs=0)

    def geometry(step: int, objective: torch.nn.Module) -> dict[str, float]:
        model, streams = cast(TrainingObjective, objective).model, partial(generator, config.eval.seed)
        context = suite.recording_context(model, env, without_planning, stream=streams)
        numbers = suite.values(suite.evaluate(context)[0])
        return {name: v for name, v in numbers.items() if (metric := metric_of(name)) is not None and metric.watch}

    return [holdout_loss, geometry]


def return_hook(config: Config) -> Hook:
    """Plays complete episodes without exploration: the learning curve 'eval/return'."""
    env = factory.make_env(config, config.eval.return_episodes)

    def play(step: int, objective: torch.nn.Module) -> dict[str, float]:
        agent = factory.make_agent(config, cast(TrainingObjective, objective).learner)
        seed, rng = config.eval.seed, generator(config.eval.seed, f"play {step}")
        returns = play_episodes(env, agent, seed, device_of(config.train), rng=rng)
        return {"eval/return": float(returns.mean()), "eval/return_std": float(returns.std(correction=0))}

    return play


def _setup_text(config: Config) -> str:
    device, train = device_of(config.train), config.train
    threads = f"{train.threads} thread{'s' * (train.threads > 1)}"
    frames = train.batch * train.length
    return f"training on {device}, {threads}, {train.precision}: {train.steps} steps of {frames} frames"


def _remove(run: Run) -> None:
    """Delete a run that was refused before its first step."""
    shutil.rmtree(run.path / "replay", ignore_errors=True)
    with suppress(OSError):  # the reason for the refusal is what the user should see
        for name in ("config.json", SPEC, factory.KEPT, "versions.json", "lock", "lock.holder"):
            (run.path / name).unlink(missing_ok=True)
        if not any(run.path.iterdir()):
            run.path.rmdir()
