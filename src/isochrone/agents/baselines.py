"""Agents that use no model: doing nothing, uniformly random actions, and replaying recorded actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Struct


@dataclass(frozen=True)
class NoOpCarry(Struct):
    """The action that is returned at every step."""

    action: Float[Tensor, "B A"]


@register("agent", "noop")
class NoOp:
    """Returns the no-op in every row: action 0, or the zero vector, where the space declares none.

    Its success rate is the share of goals that are reached without acting.
    """

    name = "noop"
    needs_goal = False

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "noop"

    def __init__(self, action: ActionSpec) -> None:
        self.action = action

    @classmethod
    def build(cls, config: Config, learner: Any) -> NoOp:
        """For the action space of `learner.model`."""
        return cls(learner.model.action)

    @staticmethod
    def modules(config: Config, model: Any, spec: Spec) -> dict[str, nn.Module]:
        """{}: nothing to train."""
        return {}

    def start(
        self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: torch.Generator | None = None
    ) -> NoOpCarry:
        """`goal` is ignored; actions are on the generator's device (CPU without one)."""
        return NoOpCarry(self.action.idle((batch,), "cpu" if rng is None else rng.device))

    def restart(self, carry: NoOpCarry, rows: Bool[Tensor, "B"], goal: Mapping[str, Tensor] | None = None) -> NoOpCarry:
        """The carry unchanged."""
        return carry

    def act(
        self, obs: Mapping[str, Tensor], carry: NoOpCarry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], NoOpCarry, dict[str, Any]]:
        """The no-op (B, A); info is empty."""
        return carry.action, carry, {}


@dataclass(frozen=True)
class RandomCarry(Struct):
    """The current actions. `rng` is the one field that changes in place."""

    action: Float[Tensor, "B A"]
    age: Int[Tensor, "B"]  # actions returned since the episode began
    rng: torch.Generator


@register("agent", "random")
class Random:
    """Uniformly random actions, each repeated for `hold_steps` steps."""

    name = "random"
    needs_goal = False

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "random"
        hold_steps: int = option(1, "steps for which an action is repeated", ge=1, le=10_000)
        seed: int = option(0, "seed where the caller passes no generator", ge=0)

    def __init__(self, action: ActionSpec, config: Config | None = None) -> None:
        self.config: Random.Config = validate(config or Random.Config(), "random.")
        self.action = action

    @classmethod
    def build(cls, config: Config, learner: Any) -> Random:
        """For the action space of `learner.model`."""
        return cls(learner.model.action, config)

    @staticmethod
    def modules(config: Config, model: Any, spec: Spec) -> dict[str, nn.Module]:
        """{}: nothing to train."""
        return {}

    def start(
        self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: torch.Generator | None = None
    ) -> RandomCarry:
        """`goal` is ignored. Actions are sampled by `rng` and are on its device."""
        rng = rng if rng is not None else torch.Generator().manual_seed(self.config.seed)
        age = torch.zeros(batch, dtype=torch.long, device=rng.device)
        return RandomCarry(self.action.idle((batch,), rng.device), age, rng)

    def restart(
        self, carry: RandomCarry, rows: Bool[Tensor, "B"], goal: Mapping[str, Tensor] | None = None
    ) -> RandomCarry:
        """Rows that begin a new episode get a new action at the next `act`."""
        return carry.replace(age=torch.where(rows.to(carry.age.device), 0, carry.age))

    def act(
        self, obs: Mapping[str, Tensor], carry: RandomCarry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], RandomCarry, dict[str, Any]]:
        """The next action of every row; info is empty."""
        due = carry.age % self.config.hold_steps == 0  # (B)
        action = torch.where(due[:, None], self.action.sample((len(due),), carry.rng), carry.action)
        return action, carry.replace(action=action, age=carry.age + 1), {}


@dataclass(frozen=True)
class ReplayCarry(Struct):
    """Which recording each row plays, and how far it is."""

    row: Int[Tensor, "B"]
    step: Int[Tensor, "B"]


class Replay:
    """Row b plays recorded[b, t] at step t of its episode, then the no-op.

    It has no Config and no name in the registry: it needs the recorded actions. Evaluation replays shortest paths with
    it; a success rate below 100 % then means that the task is faulty.
    """

    name = "replay"
    needs_goal = False

    def __init__(self, action: ActionSpec, recorded: Float[Tensor, "B T A"]) -> None:
        if recorded.ndim != 3 or not action.contains(recorded):
            raise UserError(
                f"recorded actions {tuple(recorded.shape)} are not legal (B, T, A) actions of this space "
                f"({action.kind}, size {action.size}): one-hot if discrete, within -1..1 if continuous"
            )
        self.action, self.recorded = action, recorded

    def start(
        self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: torch.Generator | None = None
    ) -> ReplayCarry:
        """`goal` and `rng` are ignored. UserError where `batch` is not the number of recordings."""
        if batch != len(self.recorded):
            raise UserError(f"replay has {len(self.recorded)} recordings, but was started with {batch} rows")
        row = torch.arange(batch, device=self.recorded.device)
        return ReplayCarry(row, torch.zeros_like(row))

    def restart(
        self, carry: ReplayCarry, rows: Bool[Tensor, "B"], goal: Mapping[str, Tensor] | None = None
    ) -> ReplayCarry:
        """Rows that begin a new episode play their recording from the start."""
        return carry.replace(step=torch.where(rows.to(carry.step.device), 0, carry.step))

    def act(
        self, obs: Mapping[str, Tensor], carry: ReplayCarry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], ReplayCarry, dict[str, Any]]:
        """The recorded action of this step, or the no-op after the end of the recording; info is empty."""
        length = self.recorded.shape[1]
        action = self.action.idle((len(carry.row),), self.recorded.device).to(self.recorded.dtype)  # (B, A)
        if length:
            recorded = self.recorded[carry.row, carry.step.clamp(max=length - 1)]
            action = torch.where((carry.step < length)[:, None], recorded, action)
        return action, carry.replace(step=carry.step + 1), {}
