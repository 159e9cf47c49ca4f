"""An environment from outside with ground truth: a square on a ring of places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.types import ActionSpec, Spec, Step, Struct, choose

PLACES, RADIUS, SIDE = 16, 24.0, 6  # places on the ring, its radius and the side of the square in pixels


@dataclass(frozen=True)
class Spot(Struct):
    """Where the square is, and the age of its episode."""

    place: Int[Tensor, "*B"]
    clock: Int[Tensor, "*B"]

    @property
    def position(self) -> Float[Tensor, "*B 2"]:
        angle = self.place * (2 * math.pi / PLACES)
        return 29 + RADIUS * torch.stack((angle.cos(), angle.sin()), -1)


class Ring:
    """Three actions: stay, one place back, one place on."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "ring"
        episode_length: int = option(20, "actions until an episode is cut off", ge=1)

    def __init__(self, config: Config | None = None, num_envs: int = 1) -> None:
        self.config, self.num_envs = config or self.Config(), num_envs
        names = ("stay", "back", "on")
        self.spec = Spec({"image": (3, 64, 64)}, ActionSpec("discrete", 3, names, noop=0, inverse=(0, 2, 1)))
        self.rng = torch.Generator()
        self.reset(0)

    def reset(self, seed: int | None = None) -> Step:
        if seed is not None:
            self.rng.manual_seed(seed)
        self.now = self._begin()
        return self._row(torch.ones(self.num_envs, dtype=torch.bool))

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        first = self.now.clock >= self.config.episode_length
        self.now = choose(first, self._begin(), self.transition(self.now, action))
        return self._row(first)

    def close(self) -> None:
        """Nothing to close."""

    def _begin(self) -> Spot:
        place = torch.randint(PLACES, (self.num_envs,), generator=self.rng)
        return Spot(place, torch.zeros_like(place))

    def _row(self, first: Tensor) -> Step:
        last = self.now.clock >= self.config.episode_length
        return Step({"image": self.draw(self.now)}, torch.zeros(self.num_envs), first, last, torch.zeros_like(last))

    def state(self) -> Spot:
        return self.now

    def set_state(self, state: Spot) -> None:
        self.now = state

    def transition(self, state: Spot, action: Float[Tensor, "*B A"]) -> Spot:
        moves = torch.tensor([0, -1, 1])[action.argmax(-1)]
        return Spot((state.place + moves) % PLACES, state.clock + 1)

    def draw(self, state: Spot) -> UInt8[Tensor, "*B 3 64 64"]:
        line = torch.arange(64) - state.position[..., None]  # (*B, 2, 64)
        inside = (line >= 0) & (line < SIDE)
        square = inside[..., 1, :, None] & inside[..., 0, None, :]
        return (square.to(torch.uint8) * 255)[..., None, :, :].repeat_interleave(3, -3)

    def displacement(self, a: Spot, b: Spot) -> Float[Tensor, "*B"]:
        return (a.position - b.position).norm(dim=-1)

    def distance(self, state: Spot, goal: Spot) -> Float[Tensor, "*B"]:
        gap = (state.place - goal.place).abs()
        return torch.minimum(gap, PLACES - gap).float()

    def places(self) -> Spot:
        return Spot(torch.arange(PLACES), torch.zeros(PLACES, dtype=torch.long))

    def table(self) -> Float[Tensor, "C C"]:
        every = self.places()
        return torch.stack([self.distance(every[[i]], every) for i in range(PLACES)])

    def index(self, state: Spot) -> Int[Tensor, "*B"]:
        return state.place

    def teleported(self, state: Spot, action: Float[Tensor, "*B A"], next: Spot) -> Bool[Tensor, "*B"]:
        return torch.zeros_like(state.place, dtype=torch.bool)
