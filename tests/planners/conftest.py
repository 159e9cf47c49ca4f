"""Small worlds whose best plan is known: a walled grid (by exhaustive search) and a double integrator (closed form)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from isochrone.core.types import ActionSpec, Struct

MOVES = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])  # up, down, left, right, stay
ROOM = """
.....#..
.###.#.#
...#....
.#.####.
.#......
"""


@dataclass(frozen=True)
class Place(Struct):
    """Row and column, as numbers."""

    p: Tensor  # (..., 2)

    def feat(self) -> Tensor:
        return self.p


class Grid:
    """A walled grid as an exact model. The gradient of a place with respect to an action is where it leads."""

    def __init__(self, drawing: str = ROOM, noop: bool = True) -> None:
        rows = [list(line) for line in drawing.strip().splitlines()]
        self.free = torch.tensor([[c != "#" for c in row] for row in rows])
        self.moves = MOVES if noop else MOVES[:4]
        self.action = ActionSpec("discrete", len(self.moves), noop=4 if noop else None)
        self.calls = 0
        self.far = self._breadth_first()  # (cells, cells) fewest actions

    def step(self, p: Tensor, action: Tensor) -> Tensor:
        top = torch.tensor([s - 1 for s in self.free.shape])
        aim = p.detach().round()[..., None, :] + self.moves  # (..., A, 2)
        cell = torch.minimum(aim.clamp(min=0), top).long()
        inside = ((aim >= 0) & (aim <= top)).all(-1) & self.free[cell[..., 0], cell[..., 1]]
        return p + (action[..., None] * inside[..., None] * self.moves).sum(-2)

    def imagine(self, state: Place, actions: Tensor) -> Place:
        b, n, horizon, _ = actions.shape
        self.calls += b * n * horizon
        p, seen = state.p[:, None].expand(b, n, 2), []
        for t in range(horizon):
            p = self.step(p, actions[:, :, t])
            seen.append(p)
        return Place(torch.stack(seen, 2))

    def index(self, p: Tensor) -> Tensor:
        p = p.round().long()
        return p[..., 0] * self.free.shape[1] + p[..., 1]

    def cells(self) -> Tensor:
        return self.free.nonzero().float()

    def distance(self, state: Place, goal: Place) -> Tensor:
        """Fewest actions, exactly."""
        return self.far[self.index(state.p), self.index(goal.p)]

    def straight(self, state: Place, goal: Place) -> Tensor:
        """City-block distance: differentiable, blind to walls."""
        return (state.p - goal.p).abs().sum(-1)

    def _breadth_first(self) -> Tensor:
        count = self.free.numel()
        far = torch.full((count, count), float("inf"))
        cells = self.cells()
        edges = {}
        for place in cells:
            every = torch.eye(len(self.moves))
            edges[int(self.index(place))] = {int(i) for i in self.index(self.step(place.expand(len(every), 2), every))}
        for root in edges:
            wave, d = {root}, 0
            while wave:
                for cell in wave:
                    far[root, cell] = d
                wave = {n for cell in wave for n in edges[cell] if far[root, n] == float("inf")}
                d += 1
        return far

    def every(self, horizon: int) -> Tensor:
        """All sequences (A^H, H, A)."""
        index = torch.tensor(list(itertools.product(range(self.action.size), repeat=horizon)))
        return self.action.one_hot(index)


class Cart:
    """s = (x, v); x' = x + v dt, v' = v + a dt; cost sum of x^2 + v^2 + 0.1 a^2. `best` solves it in closed form."""

    dt, effort = 0.5, 0.1
    action = ActionSpec("continuous", 1)

    def __init__(self) -> None:
        self.calls = 0

    def imagine(self, state: Place, actions: Tensor) -> Place:
        b, n, horizon, _ = actions.shape
        self.calls += b * n * horizon
        s, seen = state.p[:, None].expand(b, n, 2), []
        for t in range(horizon):
            x, v = s.unbind(-1)
            s = torch.stack([x + self.dt * v, v + self.dt * actions[:, :, t, 0]], -1)
            seen.append(s)
        return Place(torch.stack(seen, 2))

    def cost(self, states: Place, actions: Tensor) -> Tensor:
        return states.p.square().sum((-1, -2)) + self.effort * actions.square().sum((-1, -2))

    def best(self, start: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """(actions[B,H,1], cost[B]) of the unconstrained optimum: a least-squares problem in the actions."""
        free = self.imagine(Place(start), torch.zeros(len(start), 1, horizon, 1)).p.flatten(1)  # (B, 2H)
        unit = self.imagine(Place(torch.zeros(1, 2)), torch.eye(horizon)[None, :, :, None]).p[0].flatten(1)  # (H, 2H)
        left = unit @ unit.T + self.effort * torch.eye(horizon)
        actions = -torch.linalg.solve(left, unit @ free.T).T[..., None]  # (B, H, 1)
        return actions, self.cost(self.imagine(Place(start), actions[:, None]), actions[:, None])[:, 0]


@pytest.fixture
def grid() -> type[Grid]:
    return Grid


@pytest.fixture
def cart() -> Cart:
    return Cart()


@pytest.fixture
def place() -> type[Place]:
    return Place
