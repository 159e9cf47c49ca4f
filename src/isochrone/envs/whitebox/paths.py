"""Fewest moves between the places of a map, also round cells that must not be stepped on.

The box makes the five discrete moves from rest, by the same table as the environment. `distances` covers momentum and
continuous actions; this module handles many goals at once, each with its own blocked cells.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isochrone.envs.whitebox.maps import CELLS
from isochrone.envs.whitebox.physics import PX, SIDE, Lattice, number, push_table


def cell_at(position: Float[Tensor, "*B 2"]) -> Int[Tensor, "*B"]:
    """row * 16 + column of the cell nearest to each position (px)."""
    cell = (position / PX).round().long()
    return cell[..., 1] * CELLS + cell[..., 0]


class Paths:
    """The half-cell places (nodes) where a box may stand, and the moves between them."""

    def __init__(self, table: Lattice) -> None:
        device = table.where.device
        nodes = table.stands.nonzero().flatten()  # (N,) lattice numbers
        self._node = torch.full((len(table.stands),), -1, dtype=torch.long, device=device)
        self._node[nodes] = torch.arange(len(nodes), device=device)
        moves = push_table(device)[4]  # (5,) moves from rest, one per action
        self.next: Int[Tensor, "N 5"] = self._node[table.to[nodes][:, moves]]  # the node that each action leads to
        row = torch.arange(CELLS, device=device) * 2
        self.of_cell: Int[Tensor, "256"] = self._node[(row[:, None] * SIDE + row).flatten()]  # -1: a wall
        self._apart: Tensor | None = None

    def node(self, position: Float[Tensor, "*B 2"]) -> Int[Tensor, "*B"]:
        """The node at each position (px); -1 where no box may stand."""
        return self._node[number(position)]

    @property
    def apart(self) -> Int[Tensor, "N 256"]:
        """Fewest moves from every node to every cell; -1: no way. Computed once."""
        if self._apart is None:
            self._apart = self.fewest(self.of_cell)
        return self._apart

    @torch.no_grad()
    def fewest(self, goal: Int[Tensor, "G"], shut: Bool[Tensor, "G N"] | None = None) -> Int[Tensor, "N G"]:
        """Fewest moves from every node to each goal node; -1: no way. Nothing leads from or over a `shut` node."""
        reached = torch.arange(len(self.next), device=goal.device)[:, None] == goal  # (N, G)
        return fewest_moves(reached, self.next, None if shut is None else ~shut.T)


def fewest_moves(
    reached: Bool[Tensor, "S G"], nexts: Int[Tensor, "S A"], through: Bool[Tensor, "S G"] | None = None
) -> Int[Tensor, "S G"]:
    """Breadth first, backwards from what is `reached` at once: fewest moves from every state to each goal; -1: no way.

    `through`: the states from which a way may lead on to that goal.
    """
    moves = torch.where(reached, 0, -1).to(torch.int16)
    for d in range(1, len(nexts) + 1):
        wider = reached.clone()
        for a in range(nexts.shape[1]):
            wider |= reached[nexts[:, a]]
        if through is not None:
            wider &= through | reached
        new = wider & ~reached
        if not bool(new.any()):
            break
        moves[new] = d
        reached = wider
    return moves
