"""Replaying recorded actions: the ceiling. Where it misses the goal, the recording or the environment is at fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Struct


@dataclass(frozen=True)
class Carry(Struct):
    """How many actions were taken."""

    age: int


@register("agent", "replay")
class Replay:
    """Row b takes recorded[b, t] at step t, and rests when the recording has ended."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "replay"

    def __init__(self, config: Config, action: ActionSpec, recorded: Float[Tensor, "B T A"]) -> None:
        self.config = config
        if recorded.ndim != 3 or not action.contains(recorded):
            raise UserError(
                f"recorded actions {tuple(recorded.shape)} are not legal (B, T, A) actions of this space "
                f"({action.kind}, size {action.size}): one-hot if discrete, within -1..1 if continuous"
            )
        self.action, self.recorded = action, recorded

    def start(self, batch: int, goal: Any = None, rng: torch.Generator | None = None) -> Carry:
        """`goal` and `rng` are ignored; `batch` must be the number of recorded rows."""
        if batch != len(self.recorded):
            raise UserError(f"replay holds {len(self.recorded)} recordings; asked for {batch} rows")
        return Carry(0)

    def act(
        self, obs: Mapping[str, Tensor], carry: Carry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], Carry, dict[str, Any]]:
        """The recorded action of this step."""
        batch, length, _ = self.recorded.shape
        if carry.age < length:
            action = self.recorded[:, carry.age]
        else:
            action = self.action.idle((batch,), self.recorded.device).to(self.recorded.dtype)
        return action, carry.replace(age=carry.age + 1), {}
