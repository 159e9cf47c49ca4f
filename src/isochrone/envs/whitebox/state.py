"""Options of the white-box environment, its two action spaces, and the state of its boxes and of their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.types import ActionSpec, Struct

NAMES = ("stay", "up", "down", "left", "right")
DISCRETE = ActionSpec("discrete", 5, NAMES, noop=0, inverse=(0, 2, 1, 4, 3))
CONTINUOUS = ActionSpec("continuous", 2, ("dx", "dy"), noop=0)


@dataclass(frozen=True)
class WhiteBoxConfig:
    """Options of the white-box environment."""

    name: ClassVar[str] = "whitebox"
    shorthand: ClassVar[str] = "map"
    file_option: ClassVar[str] = "map_file"
    map: str = option("four-rooms", "a named map (see envs/whitebox/drawings.py)")
    map_file: str | None = option(None, "a text drawing of your own, instead of `map`", path=True)
    actions: Literal["discrete", "continuous"] = option("discrete", "five moves, or (dx, dy)")
    momentum: bool = option(False, "actions push: the box keeps a hidden velocity")
    noise: float = option(0.0, "strength of the moving-noise background", ge=0.0, le=1.0)
    episode_length: int = option(100, "actions until an episode is cut off", ge=1, le=1_000_000)
    start: str = option("random", "'random' or a cell 'column,row' of the 16 x 16 frame")
    check: bool = option(True, "refuse actions that are out of range or not a number")
    task: Literal["none", "reach", "avoid", "collect"] = option("none", "what is rewarded (see envs/whitebox/task.py)")
    goal: str = option("random", "of reach and avoid: 'random' per episode, or a cell 'column,row'")
    hazards: int = option(3, "of avoid: cells per episode that end it", ge=1, le=32)
    items: int = option(
        3, "of collect: cells per episode to be visited; at most 5, so that the best order can be computed", ge=1, le=5
    )


@dataclass(frozen=True)
class TaskState(Struct):
    """Marked cells of B boxes (or any other leading shape). What a mark means is the task's; see `task.Task`."""

    cells: Int[Tensor, "*B M"]  # row * 16 + column of each marked cell
    left: Bool[Tensor, "*B M"]  # still there; False: taken, or the map had no room for it


@dataclass(frozen=True)
class BoxState(Struct):
    """The full state of B boxes (or any other leading shape, such as B episodes of T rows).

    The first two fields are physical; clock, noise and task follow rules of their own.

    Without momentum the velocity is always 0. With it, the velocity is what one step moves in the open.
    """

    position: Float[Tensor, "*B 2"]  # px, (x, y) of the top left corner, in [0, 60]
    velocity: Float[Tensor, "*B 2"]  # px per step, in [-4, 4]
    clock: Int[Tensor, "*B"]  # actions since the episode began
    noise: Int[Tensor, "*B 3"]  # moving noise: window (y, x) in px, and the seed of its next step
    task: TaskState | None = None  # None: no marks, no reward


def at_rest(position: Float[Tensor, "*B 2"]) -> BoxState:
    """Boxes at rest at these positions (px), clocks and noise at 0."""
    clock = torch.zeros(position.shape[:-1], dtype=torch.long, device=position.device)
    return BoxState(position, torch.zeros_like(position), clock, clock.new_zeros(*clock.shape, 3))


def same_shape(a: TaskState | None, b: TaskState | None) -> bool:
    """Do both have the same number of marks for the same number of boxes?"""
    return a is b if a is None or b is None else a.cells.shape == b.cells.shape


def pack(state: BoxState) -> dict[str, Tensor]:
    """Copies of all tensors of a state, by name."""
    box = {f"state.{k}": getattr(state, k).clone() for k in ("position", "velocity", "clock", "noise")}
    return box if state.task is None else {**box, **{f"task.{k}": v.clone() for k, v in vars(state.task).items()}}


def unpack(saved: Mapping[str, Tensor], device: torch.device) -> BoxState:
    """The state that `pack` stored; other names in `saved` are ignored."""
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "task": {}}
    for name, value in saved.items():
        head, _, field = name.partition(".")
        if field:
            parts[head][field] = value.to(device).clone()
    return BoxState(**parts["state"], task=TaskState(**parts["task"]) if parts["task"] else None)
