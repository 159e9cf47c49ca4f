"""Doing nothing: the floor that tells how many goals come by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Struct


@dataclass(frozen=True)
class Carry(Struct):
    """The one action, ready."""

    action: Float[Tensor, "B A"]


@register("agent", "noop")
class Noop:
    """The no-op in every row; action 0 (or the zero vector) where the space declares none."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "noop"

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config = config
        self.action = action

    def start(self, batch: int, goal: Any = None, rng: torch.Generator | None = None) -> Carry:
        """`goal` and `rng` are ignored."""
        return Carry(self.action.idle((batch,), "cpu" if rng is None else rng.device))

    def act(
        self, obs: Mapping[str, Tensor], carry: Carry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], Carry, dict[str, Any]]:
        """The same action again."""
        return carry.action, carry, {}
