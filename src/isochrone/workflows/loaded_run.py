"""A trained run, opened for use: its config, model and world; and the numbers that need no ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isochrone.core.config import from_dict
from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.types import Spec
from isochrone.data.replay import Replay
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.train import checkpoint
from isochrone.train.device import device_of, generator
from isochrone.train.run import Run
from isochrone.workflows import build

LATER = ("env", "eval", "agent", "compare_planners", "train.threads", "train.accelerator", "train.device")
"""Options that may differ between training and using: where, with which planner, and how thoroughly."""


@dataclass(frozen=True)
class Trained:
    """A run and the model of its newest checkpoint, on its device."""

    run: Run
    config: Config
    spec: Spec
    model: Any
    step: int
    asked_env: bool = False  # the user named the world for this use

    @property
    def device(self) -> torch.device:
        return device_of(self.config.train)

    def world(self, num_envs: int) -> Any:
        """The run's world (or the one asked for), `num_envs` of it, checked against what the model was trained on."""
        env = build.make_env(self.config, num_envs)
        here, there = env.spec, self.spec
        same = here.obs.get("image") == there.obs.get("image") and (
            (here.action.kind, here.action.size) == (there.action.kind, there.action.size)
        )
        if not same:
            now, then = (f"{s.obs.get('image')} with {s.action.size} {s.action.kind} actions" for s in (here, there))
            raise UserError(
                f"env '{self.config.env.name}' shows {now}, the model was trained on {then}: choose another --env"
            )
        return env


def load(path: str | Path, changes: Mapping[str, str] | None = None) -> Trained:
    """The run in `path` with its newest weights; `changes` may touch only what is not trained (see LATER)."""
    run = Run.open(path, write=False)
    config = from_dict(Config, run.config)
    for name in changes or {}:
        full = build.full_name(name)
        if not any(full == known or full.startswith(f"{known}.") for known in LATER):
            raise UserError(f"'{name}' cannot be changed after training{did_you_mean(name, LATER)}")
    config = build.configured(config, changes or {})
    set_threads(config)
    spec = build.read_spec(run.path / "spec.json")
    model = build.make_model(config, spec)
    step = checkpoint.load_weights(run.trained(), model, run.config_hash)
    asked = any(name == "env" or name.startswith("env.") for name in changes or {})
    return Trained(run, config, spec, model.to(device_of(config.train)).eval(), step, asked)


def set_threads(config: Config) -> None:
    """One thread unless the config says otherwise: latent-size work gains little from a second one."""
    torch.set_num_threads(config.train.threads)


@torch.no_grad()
def held_out(
    config: Config, total: TrainingObjective, replay: Replay, envs: Sequence[int], batches: int = 4
) -> dict[str, float]:
    """Mean of every loss and of their weighted sum ('loss') over the same few batches of envs never trained on."""
    device = next(total.model.parameters()).device
    draw, inside = generator(config.train.seed, "holdout"), generator(config.train.seed, "holdout losses", device)
    sums: dict[str, float] = {}
    for _ in range(batches):
        batch = replay.sample(config.train.batch, config.train.length, draw, envs).to(device)
        for name, value in total(batch, inside)[1].items():
            sums[name] = sums.get(name, 0.0) + float(value) / batches
    return sums


def one_step(name: str) -> float:
    """The loss of a freshly made recipe on one real batch, differentiated once: does everything work here?"""
    config = build.recipe(name, {"data.rows": "20", "data.num_envs": "4"})
    replay = build.fill_replay(config, None)
    total = build.make_objective(config, build.make_model(config, replay.spec))
    rng = generator(0, "one step")
    loss, _ = total(replay.sample(4, config.train.length, rng), rng)
    loss.backward()
    return loss.item()
