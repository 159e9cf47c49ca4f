"""Acting at random: the floor that every success rate stands beside, and the collector of first data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Struct


@dataclass(frozen=True)
class Carry(Struct):
    """The action in force and how long it has been."""

    action: Float[Tensor, "B A"]
    age: int
    rng: torch.Generator


@register("agent", "random")
class Random:
    """Uniform actions, each kept for `hold` steps."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "random"
        hold: int = option(1, "steps for which an action is kept", ge=1)
        seed: int = option(0, "seed where the caller passes no generator", ge=0)

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Random.Config = validate(config, "random.")
        self.action = action

    def start(self, batch: int, goal: Any = None, rng: torch.Generator | None = None) -> Carry:
        """`goal` is ignored."""
        rng = rng if rng is not None else torch.Generator().manual_seed(self.config.seed)
        return Carry(self.action.idle((batch,), rng.device), 0, rng)

    def act(
        self, obs: Mapping[str, Tensor], carry: Carry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], Carry, dict[str, Any]]:
        """The next action of every row, on the generator's device."""
        action = carry.action
        if carry.age % self.config.hold == 0:
            action = self.action.sample((len(action),), carry.rng)
        return action, carry.replace(action=action, age=carry.age + 1), {}
