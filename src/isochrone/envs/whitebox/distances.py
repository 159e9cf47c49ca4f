"""True distances: breadth-first search over the environment's real `transition`, once per environment, cached.

A goal is reached when the box is at the goal's place, at any velocity. With discrete actions: exact, over all
half-cell places and (with momentum) all velocities. With continuous actions the search uses the nine full-speed actions
(each axis -1, 0 or 1) from the lattice points; since speed is bounded per axis these are the fastest directions, and
the answer is exact for lattice points in the open and an upper bound of the true optimum round corners. A box between
lattice points is treated as the nearest free one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isochrone.envs.whitebox.maps import Map
from isochrone.envs.whitebox.paths import fewest_moves
from isochrone.envs.whitebox.physics import PX, SPEED, Lattice, Physics, number, velocity_table
from isochrone.envs.whitebox.state import BoxState, WhiteBoxConfig, at_rest


class Distances:
    """Distances of one environment, computed at the first use."""

    def __init__(
        self,
        config: WhiteBoxConfig,
        drawing: Map,
        physics: Physics,
        table: Lattice,
        transition: Callable[[BoxState, Tensor], BoxState],
    ) -> None:
        self.discrete, self.momentum = config.actions == "discrete", config.momentum
        self.transition, self.where = transition, table.where
        device = table.where.device
        self.velocities = velocity_table(device)  # (9, 2) px per step
        aligned = (table.where % PX == 0).all(-1)
        stands = table.stands if self.discrete or physics.zones else table.stands & aligned
        if not self.discrete and physics.zones:
            stands = physics.free(table.where)  # after a slow zone a continuous box is anywhere on the half cells
        self._nodes = stands.nonzero().flatten()  # (N,) lattice numbers, row by row
        self._node = torch.full((len(stands),), -1, dtype=torch.long, device=device)
        self._node[self._nodes] = torch.arange(len(self._nodes), device=device)
        rests = torch.ones(len(self._nodes), dtype=torch.bool, device=device)
        for x, y in drawing.entrances():
            entrance = self._node[number(torch.tensor([x * PX, y * PX], dtype=torch.float32, device=device))]
            rests[entrance] = False
        if not self.discrete:
            rests = rests & aligned[self._nodes]
        self._rests = rests.nonzero().flatten()  # (C,) nodes where a box can rest
        self._place = torch.full((len(self._nodes),), -1, dtype=torch.long, device=device)
        self._place[self._rests] = torch.arange(len(self._rests), device=device)
        self._distance: Tensor | None = None

    @property
    def place_positions(self) -> Float[Tensor, "C 2"]:
        """px of every resting place, row by row."""
        return self.where[self._nodes[self._rests]]

    def index(self, state: BoxState) -> Int[Tensor, "*B"]:
        """Number of each box's place in `place_positions`; -1 on the mouth of a one-way pipe."""
        node = self._find(state.position)
        if self.discrete:
            return torch.where(node >= 0, self._place[node.clamp(min=0)], -1)
        return (state.position[..., None, :] - self.place_positions).norm(dim=-1).argmin(-1)

    def _find(self, position: Float[Tensor, "*B 2"]) -> Int[Tensor, "*B"]:
        """The node nearest to each position (discrete actions: exactly there, or -1)."""
        node = self._node[number(position)]
        if self.discrete or bool((node >= 0).all()):
            return node
        where = self.where[self._nodes]
        near = (position[..., None, :] - where).norm(dim=-1).argmin(-1)
        return torch.where(node >= 0, node, near)

    def distance(self, state: BoxState, goal: BoxState) -> Float[Tensor, "*B"]:
        """Fewest actions from each state to each goal's place; inf where there is no way."""
        start, end = self._find(state.position), self._find(goal.position)
        row = start
        if self.momentum:
            swift = (state.velocity / SPEED).round().long() + 1
            row = start * 9 + swift[..., 1] * 3 + swift[..., 0]
        valid = (start >= 0) & (end >= 0)
        steps = self._all()[row.clamp(min=0), end.clamp(min=0)].float()
        return torch.where(valid & (steps >= 0), steps, torch.inf)

    def table(self) -> Float[Tensor, "C C"]:
        """Fewest actions from every place (at rest) to every place."""
        rows = self._rests * 9 + 4 if self.momentum else self._rests
        steps = self._all()[rows][:, self._rests].float()
        return torch.where(steps >= 0, steps, torch.inf)

    def _all(self) -> Int[Tensor, "S N"]:
        """Fewest actions from every node (times nine velocities with momentum) to every node; -1: no way."""
        if self._distance is None:
            self._distance = self._search()
        return self._distance

    @torch.no_grad()
    def _search(self) -> Int[Tensor, "S N"]:
        nexts = self._successors()  # (S, A)
        count, device = len(self._nodes), self.where.device
        owner = torch.arange(len(nexts), device=device) // (9 if self.momentum else 1)
        reached = owner[:, None] == torch.arange(count, device=device)  # (S, N): there at once
        return fewest_moves(reached, nexts)

    def _successors(self) -> Int[Tensor, "S A"]:
        """The state that each action leads to, by the environment's own transition."""
        where, device = self.where[self._nodes], self.where.device
        velocities = self.velocities if self.momentum else torch.zeros(1, 2, device=device)
        box = at_rest(where.repeat_interleave(len(velocities), 0))
        box = box.replace(velocity=velocities.repeat(len(where), 1))
        actions = torch.eye(5, device=device) if self.discrete else self.velocities / SPEED  # the nine full-speed ones
        columns = []
        for action in actions:
            new = self.transition(box, action.expand(len(box.position), -1))
            column = self._node[number(new.position)]
            # A continuous box that slips round a corner can end off the lattice: such a move counts as none.
            column = (
                torch.where(column < 0, torch.arange(len(where), device=device), column)
                if not self.momentum
                else column
            )
            if self.momentum:
                swift = (new.velocity / SPEED).round().long() + 1
                column = column * 9 + swift[:, 1] * 3 + swift[:, 0]
            columns.append(column)
        return torch.stack(columns, 1)
