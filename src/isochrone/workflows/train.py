"""Train a recipe in a run folder: everything that can be refused is refused before the folder is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from isochrone.core.config import from_dict, to_dict
from isochrone.core.errors import UserError
from isochrone.core.protocols import GroundTruth, Sink
from isochrone.core.types import Spec
from isochrone.data.replay import Replay
from isochrone.evals.returns import played
from isochrone.evals.suite import evaluate, values
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.train.device import device_of, generator
from isochrone.train.loop import Fitted, Hook, fit
from isochrone.train.run import Run
from isochrone.workflows import build
from isochrone.workflows.loaded_run import held_out, set_threads
from isochrone.workflows.replay_source import ReplaySource

Say = Callable[[str], None]
WATCHED = (
    "prediction.error_1",
    "perception.spearman",
    "perception.position_error",
    "reach.spearman",
    "reach.mae",
    "reach.asymmetry",
    "disagreement.auroc",
)
"""Numbers measured against the truth every `train.eval_every` steps."""
PRIMING = (8, 64)
"""Batches, and frames in each, by which a model is primed."""


def free_folder(root: Path, name: str) -> Path:
    """root/NAME-1, or the first number that is not taken."""
    number = 1
    while (root / f"{name}-{number}").exists():
        number += 1
    return root / f"{name}-{number}"


def begin(config: Config, path: Path) -> tuple[Run, Spec, TrainingObjective]:
    """A new run folder with what will be trained in it. UserError, and no folder, for whatever cannot be trained."""
    set_threads(config)
    device_of(config.train)
    spec, total = assembled(config)
    run = Run.create(path, to_dict(config))
    try:
        build.write_spec(run.path / "spec.json", spec)
    except BaseException:
        run.close()
        raise
    return run, spec, total


def assembled(config: Config, spec: Spec | None = None) -> tuple[Spec, TrainingObjective]:
    """Spec and losses (with their model), every part built once so that a wrong one is refused now."""
    spec = spec or build.spec_of(config)
    if config.data.path is None:
        build.check_budget(config, spec)
    model = build.make_model(config, spec)
    total = build.make_objective(config, model)
    build.make_agents(config, total)
    return spec, total


def again(path: Path) -> tuple[Run, Config, TrainingObjective]:
    """An existing run, locked, with its config and what is trained in it."""
    run = Run.open(path)
    try:
        config = from_dict(Config, run.config)
        set_threads(config)
        told = run.path / "spec.json"
        spec = build.read_spec(told) if told.exists() else build.spec_of(config)
        build.write_spec(told, spec)
        return run, config, assembled(config, spec)[1]
    except BaseException:
        run.close()
        raise


def train(
    run: Run, config: Config, total: TrainingObjective, sinks: Sequence[Sink], say: Say, tick: Callable[[int], None]
) -> Fitted:
    """Record or load the data, see that every loss is alive, then train to `train.steps` or a signal."""
    fresh = run.latest() is None
    try:
        replay = build.fill_replay(config, run.path / "replay", say)
        envs, held = build.holdout_split(config, replay)
        if fresh:
            prime(config, total, replay, envs)
            see_alive(config, total, replay, say)
    except UserError:
        if fresh:
            _undo(run)
        raise
    say(_where(config))
    source = ReplaySource(config, replay, total, envs)
    hooks = watchers(config, total, replay, held) if config.train.eval_every else []
    parts = {"replay": replay, "source": source}
    return fit(total, source, config.train, run, sinks, hooks, parts, tick)


def prime(config: Config, total: TrainingObjective, replay: Replay, envs: Sequence[int]) -> None:
    """Let the model measure what it does not learn, on frames of the envs that it is trained on."""
    (count, size), rng = PRIMING, generator(config.train.seed, "calibrate")
    total.model.prime(replay.sample(size, 1, rng, envs) for _ in range(count))


def see_alive(config: Config, total: TrainingObjective, replay: Replay, say: Say) -> None:
    """Log each loss's value and gradient norms on two real batches; raise on a dead one unless `allow_dead_losses`."""
    found = build.check_alive(config, total, replay)
    say("losses on two real batches: value, then gradient per group of weights")
    for line in found.table().splitlines():
        say(f"  {line}")
    if not found.faults:
        say("every loss is alive")
    elif config.allow_dead_losses:
        for fault in found.faults:
            say(f"warning: {fault}")
    else:
        more = "" if len(found.faults) == 1 else f" (and {len(found.faults) - 1} more)"
        raise UserError(f"{found.faults[0]}{more}: set its weight to 0, or pass --allow-dead-losses")


def watchers(config: Config, total: TrainingObjective, replay: Replay, held: Sequence[int]) -> list[Hook]:
    """What is measured while training: the sum of losses on the holdout, and geometry where the world tells it."""

    def unseen(step: int, total: torch.nn.Module) -> dict[str, float]:
        return {"held_out.loss": held_out(config, cast(TrainingObjective, total), replay, held)["loss"]}

    if config.data.path is not None:
        return [unseen]
    if not build.make_agent(config, total).needs_goal:
        return [unseen, player(config)]
    env: Any = build.make_env(config, config.eval.episodes)
    if not isinstance(env, GroundTruth):
        return [unseen]
    light = replace(config.eval, pairs=0)

    def geometry(step: int, total: torch.nn.Module) -> dict[str, float]:
        found = values(evaluate(total.model, env, light)[0])
        return {name: found[name] for name in WATCHED if name in found}

    return [unseen, geometry]


def player(config: Config) -> Hook:
    """Plays whole episodes without noise: the learning curve 'eval/return', over env frames 'collect/frames'."""
    env = build.make_env(config, config.eval.returns)

    def play(step: int, total: torch.nn.Module) -> dict[str, float]:
        agent = build.make_agent(config, total)
        seed, rng = config.eval.seed, generator(config.eval.seed, f"play {step}")
        found = played(env, agent, seed, device_of(config.train), rng=rng)
        return {"eval/return": float(found.mean()), "eval/return_std": float(found.std(correction=0))}

    return play


def _where(config: Config) -> str:
    device, train = device_of(config.train), config.train
    threads = f"{train.threads} thread{'s' * (train.threads > 1)}"
    frames = train.batch * train.length
    return f"training on {device}, {threads}, {train.precision}: {train.steps} steps of {frames} frames"


def _undo(run: Run) -> None:
    """A run that was refused before it began leaves nothing behind that looks like a run."""
    shutil.rmtree(run.path / "replay", ignore_errors=True)
    for name in ("config.json", "spec.json", "versions.json", "lock"):
        (run.path / name).unlink(missing_ok=True)
    if not any(run.path.iterdir()):
        run.path.rmdir()
