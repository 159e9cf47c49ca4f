"""Models that know nothing, or not what they pretend to know: no metric may take them for a good one."""

from __future__ import annotations

from typing import Any

import torch
from perfect import Perfect, TableState
from torch import Tensor


class Dishonest(Perfect):
    """A perfect model whose knowledge is replaced: `code` of a place (F), what `step` does, and d_p."""

    def code(self, z: Tensor) -> Tensor:
        """z and p of a frame whose position in cells is `z`."""
        return z

    def pose(self, z: Tensor) -> Tensor:
        return z

    def _of(self, z: Tensor) -> TableState:
        """A state that contains one frame alone."""
        z = self.code(z)
        return TableState(z, torch.zeros(*z.shape[:-1], 3), self.pose(z), torch.zeros(z.shape[:-1], dtype=torch.bool))

    def encode_image(self, image: Tensor) -> Tensor:
        return self.code(super().encode_image(image))

    def decode(self, state: TableState) -> Tensor:
        return torch.zeros(*state.z.shape[:-1], 3, 64, 64)

    def start(self, batch: int) -> TableState:
        return self._of(torch.zeros(batch, 2)).replace(fresh=torch.ones(batch, dtype=torch.bool))

    def update(self, state: TableState, action: Tensor, obs: dict[str, Tensor]) -> TableState:
        return self._of(Perfect.encode_image(self, obs["image"]))

    def step(self, state: TableState, action: Tensor) -> TableState:
        return state


class Constant(Dishonest):
    """The same z, h and p for everything."""

    def code(self, z: Tensor) -> Tensor:
        return torch.ones_like(z)


class Collapsed(Perfect):
    """Right, but for its scale: all that a trained model keeps when it has collapsed, and rounding."""

    scale = 1e-9

    def encode_image(self, image: Tensor) -> Tensor:
        return super().encode_image(image) * self.scale

    def _state(self, z: Tensor, velocity: Tensor, age: Tensor) -> TableState:
        state = super()._state(z, velocity, age)
        return state.replace(h=state.h * self.scale, p=state.p * self.scale)

    def pose(self, z: Tensor) -> Tensor:
        return super().pose(z / self.scale)

    def update(self, state: TableState, action: Tensor, obs: dict[str, Tensor]) -> TableState:
        return self._state(self.encode_image(obs["image"]), torch.zeros(len(action), 2), torch.zeros(len(action)))

    def start(self, batch: int) -> TableState:
        return super().start(batch).replace(fresh=torch.ones(batch, dtype=torch.bool))

    def step(self, state: TableState, action: Tensor) -> TableState:
        flat = (state.z / self.scale * 4).reshape(-1, 2)
        after = self.env.transition(self.env.at(flat), action.reshape(-1, action.shape[-1]))
        z = (after.position / 4 * self.scale).reshape(state.z.shape)
        return self._state(z, torch.zeros_like(z), torch.zeros(z.shape[:-1]))


class Shrunken(Perfect):
    """Imagines the wrong action, but a step is a hundredth of an action in d_p: errors in actions seem small."""

    def metric(self, a: Tensor, b: Tensor) -> Tensor:
        return super().metric(a, b) / 100

    def step(self, state: TableState, action: Tensor) -> TableState:
        return super().step(state, action.roll(1, -1))


class Random(Dishonest):
    """Every frame has a random code, and every step leads to another one."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.rng = torch.Generator().manual_seed(0)

    def code(self, z: Tensor) -> Tensor:
        mixed = z @ torch.tensor([[12.9898, 3.711, 7.77], [78.233, 51.7, 0.39]])
        return 10 * torch.frac(torch.sin(mixed) * 43758.5453)

    def step(self, state: TableState, action: Tensor) -> TableState:
        z = 20 * torch.rand(state.z.shape, generator=self.rng) - 10
        return state.replace(z=z, p=z)


class Clock(Dishonest):
    """z, h and p count the steps since the episode began, and nothing else."""

    def code(self, z: Tensor) -> Tensor:
        return torch.zeros(*z.shape[:-1], 1)

    def _tick(self, state: TableState) -> TableState:
        age = state.p + 1
        return state.replace(z=age, h=age.expand(*age.shape[:-1], 3), p=age)

    def update(self, state: TableState, action: Tensor, obs: dict[str, Tensor]) -> TableState:
        zero = self._of(Perfect.encode_image(self, obs["image"]))
        ticked = self._tick(state)
        fresh = state.fresh[:, None]
        z, h, p = (torch.where(fresh, a, b) for a, b in ((zero.z, ticked.z), (zero.h, ticked.h), (zero.p, ticked.p)))
        return TableState(z, h, p, torch.zeros_like(state.fresh))

    def step(self, state: TableState, action: Tensor) -> TableState:
        return self._tick(state)


class Euclidean(Perfect):
    """Right, but for p, which is the position: a p that knows no walls, doors or pipes."""

    def pose(self, z: Tensor) -> Tensor:
        return z

    def metric(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).norm(dim=-1)

    def start(self, batch: int) -> TableState:
        return super().start(batch).replace(p=torch.zeros(batch, 2))


class Transposed(Perfect):
    """Right, but d_p goes the wrong way: from b to a."""

    def metric(self, a: Tensor, b: Tensor) -> Tensor:
        return super().metric(b, a)


class Copy(Perfect):
    """Sees all, and imagines that nothing ever changes: h holds no velocity, and every step leads to the last frame."""

    def update(self, state: TableState, action: Tensor, obs: dict[str, Tensor]) -> TableState:
        z = self.encode_image(obs["image"])
        return self._state(z, torch.zeros(len(z), 2), torch.zeros(len(z)))

    def step(self, state: TableState, action: Tensor) -> TableState:
        return state


MODELS = {
    "constant": Constant,
    "collapsed": Collapsed,
    "shrunken": Shrunken,
    "random": Random,
    "clock": Clock,
    "Euclidean": Euclidean,
    "transposed": Transposed,
    "copy of the last frame": Copy,
}
