"""Options of the white-box world, its two action spaces, and the state of its boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.types import ActionSpec, Struct

NAMES = ("stay", "up", "down", "left", "right")
DISCRETE = ActionSpec("discrete", 5, NAMES, noop=0, inverse=(0, 2, 1, 4, 3))
CONTINUOUS = ActionSpec("continuous", 2, ("dx", "dy"), noop=0)


@dataclass(frozen=True)
class WhiteBoxConfig:
    """Options of the white-box world."""

    name: ClassVar[str] = "whitebox"
    main: ClassVar[str] = "map"
    map: str = option("four-rooms", "a named map (see envs/whitebox/drawings.py)")
    map_file: str | None = option(None, "a text drawing of your own, instead of `map`")
    actions: Literal["discrete", "continuous"] = option("discrete", "five moves, or (dx, dy)")
    momentum: bool = option(False, "actions push: the box keeps a hidden velocity")
    noise: float = option(0.0, "strength of the moving-noise background", ge=0.0, le=1.0)
    episode_length: int = option(100, "actions until an episode is cut off", ge=1)
    start: str = option("random", "'random' or a cell 'column,row' of the 16 x 16 frame")
    check: bool = option(True, "refuse actions that are out of range or not a number")


@dataclass(frozen=True)
class BoxState(Struct):
    """Everything there is to know about B boxes (or any other leading shape, such as B episodes of T rows).

    The first two fields are physical, the others tick along.

    Without momentum the velocity is always 0. With it, velocity is the push so far: what one step moves in the open.
    """

    position: Float[Tensor, "*B 2"]  # px, (x, y) of the top left corner, in [0, 60]
    velocity: Float[Tensor, "*B 2"]  # px per step, in [-4, 4]
    clock: Int[Tensor, "*B"]  # actions since the episode began
    noise: Int[Tensor, "*B 3"]  # moving noise: window (y, x) in px, and the seed of its next step


def at_rest(position: Float[Tensor, "*B 2"]) -> BoxState:
    """Boxes at rest at these positions (px), clocks and noise at 0."""
    clock = torch.zeros(position.shape[:-1], dtype=torch.long, device=position.device)
    return BoxState(position, torch.zeros_like(position), clock, clock.new_zeros(*clock.shape, 3))
