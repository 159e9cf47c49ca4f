"""What the white box can be rewarded for: marked cells, and what it means to arrive on one.

=========  ======================================================================================================
reach      one goal. Arriving on it, or staying there, is worth 1
avoid      the same, and hazards: arriving on one is worth -1 and ends the episode
collect    items. Arriving on one is worth 1 and takes it; the last one ends the episode
=========  ======================================================================================================

The box is on a cell when its centre lies strictly inside, that is when it is off by less than half a cell on each axis.
A move in a fast zone or through a pipe arrives only where it ends.

Marks are drawn for every episode from the environment's own generator, and lie on open cells (``.``, ``~``, ``+``)
other than the start. The goal and every item can be reached from the start; hazards never cut off the goal, and there
are fewer of them where the map has no room. An episode begins only where something can be reached.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isochrone.core.config import validate
from isochrone.core.errors import UserError
from isochrone.envs.whitebox.maps import CELLS, Map
from isochrone.envs.whitebox.paths import Paths, cell_at
from isochrone.envs.whitebox.physics import PX, Lattice
from isochrone.envs.whitebox.state import BoxState, TaskState, WhiteBoxConfig

OPEN = ".~+"  # cells that a mark may lie on: it would hide a door or the end of a pipe, and an occluder would hide it
GOAL, HAZARD, ITEM = (40, 220, 90), (230, 40, 40), (230, 190, 40)  # brighter than any background or noise
TRIES = 8  # draws of hazards before those are taken that lie beside every shortest path


def make(config: WhiteBoxConfig, drawing: Map, table: Lattice, starts: Float[Tensor, "S 2"]) -> Task | None:
    """The task that the options ask for; None when nothing is rewarded.

    Raises:
        UserError: no such task, an option out of range, or a goal for a task that has none.
    """
    if config.task != "none":
        config = validate(config)
    if config.goal != "random" and config.task not in ("reach", "avoid"):
        raise UserError(f"goal = {config.goal!r}: task '{config.task}' has no goal; choose task=reach or task=avoid")
    return None if config.task == "none" else Task(config, drawing, table, starts)


class Task:
    """The rules of one task on one map. All methods but `begin` and `renew` are pure, for any leading shape."""

    def __init__(self, config: WhiteBoxConfig, drawing: Map, table: Lattice, starts: Float[Tensor, "S 2"]) -> None:
        """
        Args:
            starts: px of the places where an episode may begin; `self.starts` keeps those that reach something.

        Raises:
            UserError: a goal that no mark may lie on, or nothing can be reached from any start.
        """
        self.name, device = config.task, table.where.device
        self.paths = Paths(table)
        extra = {"reach": 0, "avoid": config.hazards, "collect": config.items - 1}[config.task]
        first, other = (ITEM, ITEM) if config.task == "collect" else (GOAL, HAZARD)
        self.colours = torch.tensor([first] + [other] * extra, dtype=torch.uint8, device=device)  # (M, 3)
        self.worth = torch.ones(1 + extra, device=device)  # (M,) of arriving on each mark
        if config.task == "avoid":
            self.worth[1:] = -1
        allowed = torch.zeros(CELLS * CELLS, dtype=torch.bool, device=device)
        for x, y in drawing.cells(OPEN):
            allowed[y * CELLS + x] = True
        wall = self.paths.of_cell < 0
        apart = self.paths.apart[self.paths.of_cell]  # (256, 256) fewest moves from cell to cell; -1: no way
        self._apart = apart.masked_fill(wall[:, None], -1)
        self._fits = (self._apart > 0) & allowed  # (256, 256) from this start, that cell can be marked
        self._goals = self._fits
        if config.goal != "random":
            self._goals = self._fits & self._only(config.goal, drawing, allowed)
        able = self._goals[cell_at(starts)].any(-1)
        if not bool(able.any()):
            what = f"goal = {config.goal!r} cannot" if config.goal != "random" else "no open cell can"
            raise UserError(
                f"{what} be reached from start = {config.start!r} by moving on map '{drawing.name}': choose another"
            )
        self.starts = starts[able]

    def _only(self, goal: str, drawing: Map, allowed: Tensor) -> Bool[Tensor, "256"]:
        """True for the cell that the user named."""
        x, y = drawing.named("goal", goal)
        if not allowed[y * CELLS + x]:
            raise UserError(
                f"goal = {goal!r}: shows '{drawing[x, y]}' on map '{drawing.name}', and a mark lies on . ~ or + only; "
                "choose another cell"
            )
        return torch.arange(CELLS * CELLS, device=allowed.device) == y * CELLS + x

    # --- an episode begins -----------------------------------------------------------------------------------------

    def renew(self, state: BoxState, rows: Bool[Tensor, "B"], rng: torch.Generator) -> BoxState:
        """New marks for these boxes, which stand where their episodes begin (all boxes, if there are no marks yet)."""
        if state.task is None:
            return state.replace(task=self.begin(state.position, rng))
        index = rows.nonzero().flatten()
        new = self.begin(state.position[index], rng)
        cells, left = state.task.cells.clone(), state.task.left.clone()
        cells[index], left[index] = new.cells, new.left
        return state.replace(task=TaskState(cells, left))

    def begin(self, start: Float[Tensor, "B 2"], rng: torch.Generator) -> TaskState:
        """Marks for episodes that begin at these places (px)."""
        cell, count = cell_at(start), len(self.worth)
        if self.name == "collect":
            return TaskState(*_draw(self._fits[cell], count, rng))
        goal, left = _draw(self._goals[cell], 1, rng)  # (B, 1)
        if self.name == "reach":
            return TaskState(goal, left)
        hazards, there = self._hazards(cell, goal[:, 0], count - 1, rng)
        return TaskState(torch.cat((goal, hazards), -1), torch.cat((left, there), -1))

    def _hazards(
        self, start: Int[Tensor, "B"], goal: Int[Tensor, "B"], count: int, rng: torch.Generator
    ) -> tuple[Int[Tensor, "B M"], Bool[Tensor, "B M"]]:
        """Hazards that leave a way from each start to each goal: drawn again while they do not."""
        far = self._apart
        through = far[start] + far[:, goal].T  # (B, 256) moves from start to goal by way of each cell
        beside = ~((far[start] >= 0) & (far[:, goal].T >= 0) & (through == far[start, goal][:, None]))
        fits = self._fits[start].scatter(1, goal[:, None], False)  # (B, 256)
        cells, left = _draw(fits, count, rng)
        for attempt in range(TRIES):
            rows = self._cut(start, goal, cells, left).nonzero().flatten()
            if not len(rows):
                break
            room = fits[rows] if attempt < TRIES - 1 else (fits & beside)[rows]  # the last draw cannot fail
            cells[rows], left[rows] = _draw(room, count, rng)
        return cells, left

    def _cut(self, start: Tensor, goal: Tensor, cells: Tensor, left: Tensor) -> Bool[Tensor, "B"]:
        """Is there no way from start to goal that never arrives on a marked cell?"""
        moves = self.paths.fewest(self.paths.of_cell[goal], self.shut(cells, left))  # (N, B)
        return moves.gather(0, self.paths.of_cell[start][None])[0] < 0

    def shut(self, cells: Int[Tensor, "B M"], left: Bool[Tensor, "B M"]) -> Bool[Tensor, "B N"]:
        """The nodes on marked cells."""
        count = len(self.paths.next)
        marks = torch.where(left, self.paths.of_cell[cells], count)  # one node more, for the marks that are not there
        none = torch.zeros(len(cells), count + 1, dtype=torch.bool, device=cells.device)
        return none.scatter(1, marks, True)[:, :count]

    # --- the rules -------------------------------------------------------------------------------------------------

    def on(self, task: TaskState, position: Float[Tensor, "*B 2"]) -> Bool[Tensor, "*B M"]:
        """Is the box on each mark that is still there?"""
        corner = torch.stack((task.cells % CELLS, task.cells // CELLS), -1) * float(PX)  # (*B, M, 2) px
        return ((position[..., None, :] - corner).abs() < PX / 2).all(-1) & task.left

    def after(self, task: TaskState, position: Float[Tensor, "*B 2"]) -> TaskState:
        """The marks once the box has arrived at `position`."""
        return task.replace(left=task.left & ~self.on(task, position)) if self.name == "collect" else task

    def reward(self, before: BoxState, after: BoxState) -> Float[Tensor, "*B"]:
        """What arriving at `after`, one action later than `before`, is worth; 0 for boxes without marks."""
        if before.task is None:
            return torch.zeros(after.clock.shape, device=after.clock.device)
        return (self.on(before.task, after.position) * self.worth).sum(-1)

    def terminal(self, state: BoxState) -> Bool[Tensor, "*B"]:
        """Does the episode end here, for good?"""
        if state.task is None or self.name == "reach":
            return torch.zeros(state.clock.shape, dtype=torch.bool, device=state.clock.device)
        if self.name == "collect":
            return ~state.task.left.any(-1)
        return self.on(state.task, state.position)[..., 1:].any(-1)


def _draw(
    fits: Bool[Tensor, "B 256"], count: int, rng: torch.Generator
) -> tuple[Int[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """`count` different cells drawn from those that fit, and whether there were that many."""
    scores = torch.rand(fits.shape, generator=rng, device=fits.device).masked_fill(~fits, -1.0)
    best = scores.topk(count, dim=-1)
    return best.indices, best.values >= 0
