"""The best possible return of the white box's tasks, by breadth-first search over its own table of moves."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.envs.whitebox.state import BoxState, TaskState
from isochrone.envs.whitebox.task import Task


class _Case(NamedTuple):
    """Where the boxes are, what is marked, and how many actions are left."""

    task: Task
    marks: TaskState
    node: Int[Tensor, "B"]
    rest: Int[Tensor, "B"]


def best_return(task: Task, state: BoxState, episode_length: int) -> Float[Tensor, "B"]:
    """The largest undiscounted sum of rewards from `state` (B boxes at rest, discrete moves) to its episode's end.

    reach: every action after the shortest way counts, so d >= 1 moves away with n actions left it is n - d + 1 (at the
    goal: n). avoid: the same, with hazards as walls. collect: as many items as n actions can take, in the best order.

    Raises:
        UserError: a state without marks.
    """
    if state.task is None:
        raise UserError("the state has no marks: take it from state() or from a recording of this task")
    rest = (episode_length - state.clock).clamp(min=0)
    rest = torch.where(task.terminal(state), 0, rest)
    case = _Case(task, state.task, task.paths.node(state.position), rest)
    if task.name == "collect":
        return _most_items(case).float()
    away = _to_goal(case).gather(0, case.node[None])[0].long()  # (B,)
    stays = case.rest - away.clamp(min=1) + 1
    return torch.where(away >= 0, stays.clamp(min=0), 0).float()


def _to_goal(case: _Case) -> Int[Tensor, "N B"]:
    """Fewest moves from every node to each box's goal, never arriving on one of its hazards; -1: no way."""
    cells, left = case.marks.cells, case.marks.left
    shut = case.task.shut(cells[:, 1:], left[:, 1:])  # (B, N)
    return case.task.paths.fewest(case.task.paths.of_cell[cells[:, 0]], shut)


def _most_items(case: _Case) -> Int[Tensor, "B"]:
    """The largest number of items that can be taken in the actions left, over all orders."""
    cells, left = case.marks.cells, case.marks.left  # (B, M)
    orders = torch.tensor(list(permutations(range(cells.shape[1]))), device=cells.device)  # (P, M)
    apart, of_cell = case.task.paths.apart, case.task.paths.of_cell
    here = case.node[:, None].expand(-1, len(orders))  # (B, P)
    time, count = torch.zeros_like(here), torch.zeros_like(here)
    way = torch.ones_like(here, dtype=torch.bool)
    for k in range(cells.shape[1]):
        cell, there = cells[:, orders[:, k]], left[:, orders[:, k]]  # (B, P)
        leg = apart[here, cell].long()
        way = way & (~there | (leg >= 0))
        time = time + torch.where(there, leg, 0)
        here = torch.where(there, of_cell[cell], here)
        count = count + (there & way & (time <= case.rest[:, None]))
    return count.amax(-1)
