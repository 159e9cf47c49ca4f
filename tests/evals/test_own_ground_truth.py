"""An environment with ground truth from outside: a square on a ring. It gets the whole report, planning included."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from isochrone.cli import run
from isochrone.core import registry
from isochrone.core.config import option
from isochrone.core.protocols import GroundTruth
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


@pytest.mark.slow
def test_it_gets_the_whole_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Ring(), GroundTruth)
    small = """--model.hidden 16 --model.h 8 --model.z 8 --model.p 8 --model.fourier 8 --model.depth 4
      --model.open-loop 2 --train.steps 4 --train.batch 4 --train.length 6 --optim.model.warmup 0
      --data.num-envs 4 --data.rows 40
      --eval.episodes 4 --eval.length 16 --eval.pairs 4 --eval.horizon 4 --planner.expansions 8""".split()
    monkeypatch.setitem(registry._components["env"], "ring", Ring)  # as an entry point of an installed package
    words = ["train", "tiny", "--env", "ring", "--run", str(tmp_path / "run"), *small]
    assert run([*words, "--then", "eval,report"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    for family in ("openloop_latent", "perception", "reach", "planning"):
        assert [name for name in results if name.startswith(f"{family}.")], family
    assert results["planning.replay.success"]["value"] == 1.0, "shortest paths by its own distances reach their goals"
    report = (tmp_path / "run" / "report.html").read_text()
    for question in ("Does it predict?", "Is z perceptual?", "Is p reachability?", "Can one plan here?"):
        assert question in report
