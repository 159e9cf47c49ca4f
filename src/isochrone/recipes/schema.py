"""The configuration of a run as one frozen dataclass. `isochrone train RECIPE --help` prints it with all values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal, Protocol, runtime_checkable

from isochrone.core.config import component_config, option
from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.evals.context import EvalConfig
from isochrone.losses.loss import LossConfig
from isochrone.training.config import TrainConfig
from isochrone.training.optim import OptimConfig


@runtime_checkable
class ChecksWindow(Protocol):
    """A model's Config that needs windows of a certain length."""

    def check_window(self, length: int, path: str) -> None: ...


@dataclass(frozen=True)
class DataConfig:
    """Where training data come from, and how many rows the replay holds."""

    path: str | None = option(
        None, "a recording to train on instead of collecting, file or folder ('--data PATH')", path=True
    )
    num_envs: int = option(64, "environments stepped together; each has its own ring in the replay", ge=2, le=65_536)
    rows: int = option(1000, "rows collected from each environment before training", ge=2)
    capacity: int = option(
        0,
        "rows of each environment in the replay when more are collected (0: as many as before training)",
        ge=0,
    )
    budget_mb: int = option(2000, "most megabytes that the replay may take", ge=1)
    hold_steps: float = option(1.0, "mean number of steps for which the random policy keeps an action", ge=1)
    holdout_fraction: float = option(
        0.1, "fraction of the environments (or episodes) that is never trained on", gt=0, lt=1
    )
    collect_every: int = option(0, "training steps between further collections; 0: none", ge=0)
    collect_steps: int = option(
        100, "rows added to each environment by a further collection; they replace the oldest", ge=2, le=1_000_000
    )
    collect_policy: Literal["agent", "random"] = option(
        "agent", "who acts then: the agent (with goals sampled from the replay, if it needs them), or random actions"
    )

    train_ratio: float = option(
        0.0, "collect by ratio instead of by period: optimiser steps for each further environment step; 0: no", ge=0
    )

    @property
    def period(self) -> float:
        """Training steps between further collections; 0: none."""
        return self.collect_every or self.train_ratio * self.num_envs * self.collect_steps

    def collections(self, step: int) -> int:
        """How many further collections precede the batch of training step `step` (counted from 0)."""
        return math.floor(step / self.period) if self.period else 0

    def check(self, path: str = "") -> None:
        """UserError: both ways to collect at once, or a recording that would have to be continued."""
        if self.collect_every and self.train_ratio:
            raise UserError(
                f"{path}collect_every = {self.collect_every} and {path}train_ratio = {self.train_ratio:g}: collect "
                "either by period or by ratio; set one of them to 0"
            )
        name = "collect_every" if self.collect_every else "train_ratio"
        if self.path is not None and self.period:
            raise UserError(f"{path}{name} = {getattr(self, name):g}: a recording cannot be continued; set it to 0")


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    recipe: str = option("zhp", "recipe that this config started from")
    env: Any = option(lambda: component_config("env", "whitebox:pipes"), "the environment", component="env")
    model: Any = option(lambda: component_config("model", "zhp"), "the world model", component="model")
    loss: dict[str, LossConfig] = option({}, "losses and their weights", mapping=LossConfig)
    data: DataConfig = option(DataConfig(), "the training data")
    optim: dict[str, OptimConfig] = option(
        {"model": OptimConfig()}, "how the weights of each part of the learner are updated", mapping=OptimConfig
    )
    train: TrainConfig = option(TrainConfig(), "length of the training, device, logging, checkpoints")
    agent: Any = option(
        lambda: component_config("agent", "mpc"),
        "what acts (--planner NAME sets agent.planner)",
        component="agent",
    )
    compare_planners: tuple[str, ...] = option(
        ("cem",), "further planners that `eval` runs on the same pairs", names="planner"
    )
    eval: EvalConfig = option(EvalConfig(), "extent of the evaluation")
    then: tuple[Literal["eval", "plan", "report"], ...] = option((), "commands that `train` runs after training")
    allow_dead_losses: bool = option(False, "only warn where a loss is refused or has no effect")

    def check(self, path: str = "") -> None:
        """Rules across groups of options. UserError."""
        for name, optim in self.optim.items():
            if optim.warmup >= self.train.steps and optim.warmup:
                raise UserError(
                    f"{path}optim.{name}.warmup = {optim.warmup}: must be less than train.steps = {self.train.steps}"
                )
        if isinstance(self.model, ChecksWindow):
            self.model.check_window(self.train.length, f"{path}model.")


def recipe(build: Callable[[], Config]) -> Callable[[], Config]:
    """Register `build` as a recipe under its own name, which is also stored in the Config that it returns."""
    name = build.__name__

    @wraps(build)
    def with_name() -> Config:
        return replace(build(), recipe=name)

    return register("recipe", name)(with_name)
