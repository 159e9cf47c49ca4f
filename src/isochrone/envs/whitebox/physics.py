"""How the box moves: tables of the map's cells, and one sub-step of at most half a cell along one axis.

Positions are the box's top left corner in pixels, (x, y) in [0, 60]; a cell is 4 px and so is the box. Continuous
actions use the sub-step directly. Discrete actions live on a lattice of half cells (31 x 31 positions), where the whole
physics is one table that `lattice` fills by the same sub-steps; the physics therefore exists once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isochrone.envs.whitebox.maps import CELLS, DOORS, Map

PX = 4  # pixels per cell, and the side of the box
SIDE = 2 * CELLS - 1  # half-cell positions per axis
SPEED = 4.0  # px per step in the open


class Moved(NamedTuple):
    """Where a move ended, whether an axis met something, and whether a pipe was used."""

    position: Float[Tensor, "... 2"]
    free: Bool[Tensor, "... 2"]  # False: something stopped the box on this axis
    piped: Bool[Tensor, "..."]


class Physics:
    """The map as tensors, on one device. All methods are pure and take any leading shape."""

    def __init__(self, drawing: Map, device: torch.device | str = "cpu") -> None:
        pad = CELLS + 2  # one cell of wall all round, so that nothing leaves the frame
        solid = torch.ones(4, pad, pad, dtype=torch.bool)  # (direction up/down/left/right, y + 1, x + 1)
        slow, fast = torch.zeros(pad, pad, dtype=torch.bool), torch.zeros(pad, pad, dtype=torch.bool)
        exits = torch.full((pad, pad, 2), -1.0)  # px of the other end where a pipe begins, else -1
        for x, y in drawing.cells():
            char = drawing[x, y]
            for direction in range(4):
                solid[direction, y + 1, x + 1] = char in DOORS and DOORS[char] != direction
            slow[y + 1, x + 1], fast[y + 1, x + 1] = char == "~", char == "+"
        for (x, y), (to_x, to_y) in drawing.pipes.items():
            exits[y + 1, x + 1] = torch.tensor([to_x * PX, to_y * PX], dtype=torch.float32)
        self.solid, self.slow, self.fast = solid.to(device), slow.to(device), fast.to(device)
        self.exits = exits.to(device)
        self.wall = self.solid.all(0)
        self.doors, self.zones = bool(drawing.cells("<>^v")), bool(drawing.cells("~+"))
        self.pipes, self.quick = bool(drawing.pipes), bool(drawing.cells("+"))

    # --- looking up cells ------------------------------------------------------------------------------------------

    def _touches(self, table: Bool[Tensor, "18 18"], position: Float[Tensor, "... 2"]) -> Bool[Tensor, "..."]:
        """Does any of the (up to four) cells under the box show true?"""
        low, high = _span(position)
        x0, y0, x1, y1 = low[..., 0], low[..., 1], high[..., 0], high[..., 1]
        return table[y0, x0] | table[y0, x1] | table[y1, x0] | table[y1, x1]

    def free(self, position: Float[Tensor, "... 2"]) -> Bool[Tensor, "..."]:
        """Is the box inside the frame and clear of walls?"""
        inside = ((position >= 0) & (position <= PX * (CELLS - 1))).all(-1)
        return inside & ~self._touches(self.wall, position.clamp(0, PX * (CELLS - 1)))

    def pace(self, position: Float[Tensor, "... 2"]) -> Float[Tensor, "..."]:
        """Speed relative to the open: 0.5 while the box touches a slow zone, else 2 while it touches a fast one."""
        one = torch.ones(position.shape[:-1], device=position.device)
        if not self.zones:
            return one
        quick = torch.where(self._touches(self.fast, position), 2 * one, one)
        return torch.where(self._touches(self.slow, position), 0.5 * one, quick)

    # --- moving ----------------------------------------------------------------------------------------------------

    def slide(
        self, position: Float[Tensor, "... 2"], delta: Float[Tensor, "... 2"], axis: int, corner: bool
    ) -> tuple[Float[Tensor, "... 2"], Bool[Tensor, "..."]]:
        """Move along one axis by delta[axis], at most half a cell; stop at walls and closed doors.

        Args:
            position: px.
            delta: px; the other axis only says where the box is mainly heading.
            axis: 0 for x, 1 for y.
            corner: a box that heads mainly along this axis, and is caught on a corner by at most half its width, slides
                round the corner instead of stopping. (Without it a 4 px box driven by real numbers would never meet a
                4 px gap.)

        Returns:
            The new position and whether the way was clear.
        """
        here, side, d = position[..., axis], position[..., 1 - axis], delta[..., axis]
        direction = (d > 0).long() + (2 if axis == 0 else 0)  # up 0, down 1, left 2, right 3
        low, high = _span(position)  # cells under the box, + 1
        ahead = here + d
        cell = torch.where(d > 0, _ceil(ahead), _floor(ahead)).clamp(0, CELLS + 1)  # the foremost cell, + 1
        near, far = low[..., 1 - axis], high[..., 1 - axis]  # the one or two cells across the way
        met = self._at(direction, cell, near, axis), self._at(direction, cell, far, axis)
        stopped = met[0] | met[1]
        blocked = torch.zeros_like(stopped)
        if self.doors:  # while it touches a door, the box can only go the door's way
            for along in (low[..., axis], high[..., axis]):
                blocked = blocked | self._at(direction, along, near, axis) | self._at(direction, along, far, axis)
        wall = torch.where(d > 0, cell - 2, cell) * float(PX)  # where the box stops
        new = torch.where(blocked, here, torch.where(stopped, wall, ahead))
        clear = ~(blocked | stopped) | (d == 0)
        new = torch.where(d == 0, here, new)
        if corner:
            side = self._round(position, delta, axis, side, stopped & ~blocked & (met[0] != met[1]), met[0])
        return torch.stack((new, side) if axis == 0 else (side, new), -1), clear

    def _round(self, position: Tensor, delta: Tensor, axis: int, side: Tensor, caught: Tensor, first: Tensor) -> Tensor:
        """The other coordinate after slipping towards the open one of two cells, by no more than the step was long."""
        d, across = delta[..., axis], delta[..., 1 - axis]
        low, high = _span(position)
        goal = torch.where(first, high[..., 1 - axis] - 1, low[..., 1 - axis] - 1) * float(PX)
        gap = goal - side
        slips = caught & (gap.abs() <= PX / 2) & (across.abs() < 0.5 * d.abs())
        if self.doors:  # never leave a door sideways
            slips = slips & ~self._touches(self.solid.any(0), position)
        return torch.where(slips, side + torch.minimum(torch.maximum(gap, -d.abs()), d.abs()), side)

    def _at(self, direction: Tensor, along: Tensor, across: Tensor, axis: int) -> Tensor:
        return self.solid[direction, across, along] if axis == 0 else self.solid[direction, along, across]

    def enter(self, before: Float[Tensor, "... 2"], after: Float[Tensor, "... 2"]) -> Moved:
        """Follow the pipe whose cell the box's centre came into: strictly inside now, and not before."""
        cell = (after / PX).round()
        inside = ((after - cell * PX).abs() < PX / 2).all(-1)
        was = ((before - cell * PX).abs() < PX / 2).all(-1)
        at = cell.long() + 1
        out = self.exits[at[..., 1], at[..., 0]]  # (..., 2) px
        piped = inside & ~was & (out[..., 0] >= 0)
        return Moved(torch.where(piped[..., None], out, after), torch.ones_like(after, dtype=torch.bool), piped)

    def glide(self, position: Float[Tensor, "... 2"], delta: Float[Tensor, "... 2"]) -> Moved:
        """One step of real-valued motion by `delta` px (at the pace of the place it starts from), x before y.

        A slip round a corner counts as motion: no axis changes by more than the longer side of `delta` at that pace.
        """
        delta = delta * self.pace(position)[..., None]
        parts = 4 if self.quick else 2  # a sub-step is at most 2 px: nothing tunnels
        delta = delta / parts
        free = torch.ones_like(position, dtype=torch.bool)
        piped = torch.zeros(position.shape[:-1], dtype=torch.bool, device=position.device)
        for _ in range(parts):
            before, now = position, position
            rest = delta
            for axis in (0, 1):
                new, clear = self.slide(now, rest, axis, corner=True)
                slipped = new[..., 1 - axis] != now[..., 1 - axis]  # a slip uses up the sub-step of the other axis
                now = torch.where(slipped[..., None], _within(before, rest[..., axis], new, 1 - axis), new)
                rest = torch.where(slipped[..., None], torch.zeros_like(rest), rest)
                free = free & (clear | slipped)[..., None].logical_or(_other(axis, free))
            if self.pipes:
                moved = self.enter(before, now)
                now, entered = moved.position, moved.piped
            else:
                entered = torch.zeros_like(piped)
            position = torch.where(piped[..., None], position, now)
            piped = piped | entered
        return Moved(position, free | piped[..., None], piped)


def _within(before: Tensor, length: Tensor, after: Tensor, axis: int) -> Tensor:
    """`after` with one axis no farther than `length` from where it was before."""
    reach = length.abs()
    near = torch.minimum(torch.maximum(after[..., axis], before[..., axis] - reach), before[..., axis] + reach)
    return torch.stack((near, after[..., 1]) if axis == 0 else (after[..., 0], near), -1)


def _other(axis: int, like: Tensor) -> Tensor:
    """True on the axis that was not moved along."""
    return torch.tensor([axis != 0, axis != 1], device=like.device)


def _floor(px: Tensor) -> Tensor:
    return (px / PX).floor().long() + 1


def _ceil(px: Tensor) -> Tensor:
    return (px / PX).ceil().long() + 1


def _span(position: Float[Tensor, "... 2"]) -> tuple[Int[Tensor, "... 2"], Int[Tensor, "... 2"]]:
    """First and last cell under the box on each axis, + 1 for the border."""
    return _floor(position), _ceil(position)


# --- discrete actions: the whole physics as one table -----------------------------------------------------------------


class Lattice(NamedTuple):
    """Every move of every half-cell position. Positions count row by row, moves (dy + 1) * 3 + (dx + 1)."""

    where: Float[Tensor, "P 2"]  # px of each position
    stands: Bool[Tensor, "P"]  # may the box rest there: on the grid, or touching a slow zone
    to: Int[Tensor, "P 9"]  # where a move leads
    free: Bool[Tensor, "P 9 2"]  # was the axis clear
    piped: Bool[Tensor, "P 9"]


def grid(device: torch.device | str = "cpu") -> Float[Tensor, "961 2"]:
    """All half-cell positions in px, row by row."""
    axis = torch.arange(SIDE, dtype=torch.float32, device=device) * (PX / 2)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2)


def number(position: Float[Tensor, "... 2"]) -> Int[Tensor, "..."]:
    """The nearest half-cell position's number."""
    half = (position * (2 / PX)).round().long()
    return half[..., 1] * SIDE + half[..., 0]


def lattice(physics: Physics) -> Lattice:
    """Fill the table. A move goes as far as its pace allows and ends on the last position where the box may stand.

    Off the grid the box may stand only while it touches a slow zone, so every box that leaves one is on the grid again.
    """
    where = grid(physics.wall.device)
    aligned = (where % PX == 0).all(-1)
    stands = physics.free(where) & (aligned | physics._touches(physics.slow, where))
    unit = torch.tensor([[x, y] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)], device=where.device)  # (9, 2)
    start = where[:, None].expand(-1, 9, -1)  # (P, 9, 2)
    budget = (physics.pace(start) * SPEED / (PX / 2)).round().long()  # (P, 9) half cells
    now, last = start, start
    piped = torch.zeros(start.shape[:2], dtype=torch.bool, device=where.device)
    for part in range(4):
        going = (part < budget) & ~piped
        step = unit * (PX / 2) * going[..., None]
        new = physics.slide(now, step, 0, corner=False)[0]
        new = physics.slide(new, step, 1, corner=False)[0]
        moved = physics.enter(now, new)
        now, piped = moved.position, piped | moved.piped
        last = torch.where(stands[number(now)][..., None], now, last)
    free = (last - start == unit * (PX / 2) * budget[..., None]) | piped[..., None]
    to = number(last)
    ok = stands[:, None]
    to = torch.where(ok, to, number(start))
    return Lattice(where, stands, to, free | ~ok[..., None], piped & ok)


# --- velocities, numbered (dy + 1) * 3 + (dx + 1) as moves are -------------------------------------------------------


def velocity_table(device: torch.device) -> Float[Tensor, "9 2"]:
    units = [[x, y] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]
    return torch.tensor(units, device=device) * SPEED


def push_table(device: torch.device) -> Int[Tensor, "9 5"]:
    """The velocity number (dy + 1) * 3 + (dx + 1) after each action."""
    pushes = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # (dx, dy) of stay, up, down, left, right
    rows = []
    for v in range(9):
        dx, dy = v % 3 - 1, v // 3 - 1
        rows.append([3 * (min(max(dy + py, -1), 1) + 1) + min(max(dx + px, -1), 1) + 1 for px, py in pushes])
    return torch.tensor(rows, device=device)


def after_table(table: Lattice, velocities: Float[Tensor, "9 2"]) -> Int[Tensor, "P9"]:
    """The velocity number that is left after each move: an axis that met something stands still."""
    after = (velocities[None] * table.free / SPEED).round().long() + 1  # (P, 9, 2)
    return (after[..., 1] * 3 + after[..., 0]).flatten()
