"""A trained run, opened for use: its config, model and environment; and its losses on the holdout."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isochrone.core import registry
from isochrone.core.config import absent, from_dict
from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.types import Spec
from isochrone.data.episode import read_spec
from isochrone.data.replay import ReplayBuffer
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.training import checkpoint
from isochrone.training.device import device_of, generator
from isochrone.training.learner import Learner
from isochrone.training.run import Run
from isochrone.workflows import factory

log = logging.getLogger(__name__)
SPEC = "spec.json"
EVAL_TIME_OPTIONS = (
    "env",
    "eval",
    "agent",
    "compare_planners",
    "train.threads",
    "train.accelerator",
    "train.device",
)
"""Options that may be changed after training: they do not affect what was trained."""


@dataclass(frozen=True)
class LoadedRun:
    """A run and the model of its newest checkpoint, on its device."""

    run: Run
    config: Config
    spec: Spec
    learner: Learner
    step: int
    env_changed: bool = False  # the environment was chosen for this use; it is not that of the training
    damaged: tuple[str, ...] = ()  # newer checkpoints that could not be used, and why

    @property
    def model(self) -> Any:
        """The world model."""
        return self.learner.model

    @property
    def device(self) -> torch.device:
        return device_of(self.config.train)

    def make_env(self, num_envs: int) -> Any:
        """`num_envs` environments. UserError if their observations or actions do not fit the model."""
        env = factory.make_env(self.config, num_envs)
        now, then = env.spec, self.spec
        read = ["image"] if self.model.needs_image else list(then.obs)  # a model that needs an image reads no vectors
        same = all(now.obs.get(name) == then.obs.get(name) for name in read) and (
            (now.action.kind, now.action.size) == (then.action.kind, then.action.size)
        )
        if not same:
            env.close()
            has, needs = (
                f"{', '.join(f'{n} {s.obs.get(n)}' for n in read)} with {s.action.size} {s.action.kind} actions"
                for s in (now, then)
            )
            raise UserError(
                f"env '{self.config.env.name}' shows {has}, the model was trained on {needs}: choose another --env"
            )
        return env


def load(path: str | Path, changes: Mapping[str, Any] | None = None, trust: bool = False) -> LoadedRun:
    """The run in `path` with its newest weights.

    Args:
        changes: options by dotted name, out of `EVAL_TIME_OPTIONS`.
        trust: import code from outside isochrone that the run's config names.

    Raises:
        UserError: no run, no checkpoint, code that is not trusted, or an option that cannot be changed after training.
    """
    run = Run.open(path, write=False)
    config = read_config(run, trust)
    for name in changes or {}:
        full = factory.full_name(name)
        if not any(full == option or full.startswith(f"{option}.") for option in EVAL_TIME_OPTIONS):
            raise UserError(f"'{name}' cannot be changed after training{did_you_mean(name, EVAL_TIME_OPTIONS)}")
    names = {factory.full_name(name).replace("-", "_") for name in changes or {}}
    if not names & {"env", "env.map_file"}:
        config = factory.with_kept_file(config, run.path)
    config = factory.with_changes(config, changes or {})
    spec = read_spec(run.path / SPEC)
    learner = factory.make_learner(config, spec)
    newest = run.newest()
    folder = run.trained(newest)
    step = checkpoint.load_weights(folder, learner, run.config_hash)
    check_hash(run, folder)
    env_changed = any(name == "env" or name.startswith("env.") for name in changes or {})
    device = device_of(config.train)
    return LoadedRun(run, config, spec, learner.to(device).eval(), step, env_changed, newest.damaged)


def read_config(run: Run, trust: bool = False) -> Config:
    """The config of a run. UserError: damaged, of another version, or code that is not trusted."""
    where = run.path / "config.json"
    with registry.trusted(trust):
        try:
            config = from_dict(Config, run.config)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if missing := absent(config, run.config):
        log.warning("%s lacks %s: the defaults of this version are used", where, ", ".join(missing))
    return config


def check_hash(run: Run, folder: Path) -> None:
    """Say so where config.json is not the one that a checkpoint was trained with."""
    if checkpoint.read_manifest(folder).config_hash not in ("", run.config_hash):
        log.warning("%s was changed after step %d was trained", run.path / "config.json", int(folder.name))


@torch.no_grad()
def holdout_losses(
    config: Config, objective: TrainingObjective, replay: ReplayBuffer, envs: Sequence[int], batches: int = 4
) -> dict[str, float]:
    """Mean of every loss and of their weighted sum ('loss') over a few batches of the holdout, always the same ones."""
    device = next(objective.model.parameters()).device
    windows = generator(config.train.seed, "holdout")
    rng = generator(config.train.seed, "holdout losses", device)
    sums: dict[str, float] = {}
    for _ in range(batches):
        batch = replay.sample(config.train.batch, config.train.length, windows, envs).to(device)
        for name, value in objective(batch, rng)[1].items():
            sums[name] = sums.get(name, 0.0) + float(value) / batches
    return sums
