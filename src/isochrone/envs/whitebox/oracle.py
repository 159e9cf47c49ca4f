"""The best that can be got out of an episode, exactly, and a policy that gets it. For measuring only.

Only for discrete actions without momentum: there the box always stands on one of a few places, and the fewest moves to
each of them are known by breadth-first search over the world's own table of moves.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.envs.whitebox.state import BoxState, TaskState
from isochrone.envs.whitebox.task import Task
from isochrone.envs.whitebox.world import WhiteBoxWorld


class _Case(NamedTuple):
    """One question: where the boxes are, what is marked, and how many actions are left."""

    task: Task
    marks: TaskState
    node: Int[Tensor, "B"]
    rest: Int[Tensor, "B"]


def oracle_return(world: WhiteBoxWorld, state: BoxState | None = None) -> Float[Tensor, "B"]:
    """The largest undiscounted sum of rewards from `state` (B boxes; None: the world's own) to its episode's end.

    reach: every action after the shortest way counts, so d >= 1 moves away with n actions left it is n - d + 1 (at the
    goal: n). avoid: the same, with hazards as walls. collect: as many items as n actions can take, in the best order.

    Raises:
        UserError: a world without task or with continuous actions or momentum, or a state without marks.
    """
    case = _case(world, state)
    if case.task.name == "collect":
        return _order(case)[0].float()
    away = _to_goal(case).gather(0, case.node[None])[0].long()  # (B,)
    stays = case.rest - away.clamp(min=1) + 1
    return torch.where(away >= 0, stays.clamp(min=0), 0).float()


def oracle_action(world: WhiteBoxWorld, state: BoxState | None = None) -> Float[Tensor, "B 5"]:
    """One-hot actions that, played to the end, earn `oracle_return`: each a step on a shortest way.

    Raises:
        UserError: as `oracle_return`.
    """
    case = _case(world, state)
    if case.task.name == "collect":
        away = case.task.paths.apart[:, _order(case)[1]]  # (N, B)
    else:
        away = _to_goal(case)
    after = case.task.paths.next[case.node]  # (B, 5)
    left = away.T.gather(1, after)  # (B, 5)
    best = torch.where(left >= 0, left, torch.iinfo(left.dtype).max).argmin(-1)  # nowhere to go: stay, which is first
    return world.spec.action.one_hot(best)


def _case(world: WhiteBoxWorld, state: BoxState | None) -> _Case:
    if world.task is None:
        raise UserError("task = 'none' has no reward, so no best return: choose task=reach, avoid or collect")
    if not world.discrete or world.config.momentum:
        kind = "momentum" if world.discrete else "continuous actions"
        raise UserError(f"the best return is not known with {kind}: choose actions=discrete and momentum=false")
    state = world.state() if state is None else state
    if state.task is None:
        raise UserError("the state has no marks: take it from world.state() or from a recording of this task")
    rest = (world.config.episode_length - state.clock).clamp(min=0)
    rest = torch.where(world.task.terminal(state), 0, rest)  # over is over
    return _Case(world.task, state.task, world.task.paths.node(state.position), rest)


def _to_goal(case: _Case) -> Int[Tensor, "N B"]:
    """Fewest moves from every node to each box's goal, never arriving on one of its hazards; -1: no way."""
    cells, left = case.marks.cells, case.marks.left
    shut = case.task.shut(cells[:, 1:], left[:, 1:])  # (B, N)
    return case.task.paths.fewest(case.task.paths.of_cell[cells[:, 0]], shut)


def _order(case: _Case) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
    """(most items that can be taken, the cell to visit next), over all orders; among equals the quickest."""
    cells, left = case.marks.cells, case.marks.left  # (B, M)
    orders = torch.tensor(list(permutations(range(cells.shape[1]))), device=cells.device)  # (P, M)
    apart, of_cell = case.task.paths.apart, case.task.paths.of_cell
    here = case.node[:, None].expand(-1, len(orders))  # (B, P)
    time, got, spent = torch.zeros_like(here), torch.zeros_like(here), torch.zeros_like(here)
    way = torch.ones_like(here, dtype=torch.bool)
    for k in range(cells.shape[1]):
        cell, there = cells[:, orders[:, k]], left[:, orders[:, k]]  # (B, P)
        leg = apart[here, cell].long()
        way = way & (~there | (leg >= 0))
        time = time + torch.where(there, leg, 0)
        here = torch.where(there, of_cell[cell], here)
        taken = there & way & (time <= case.rest[:, None])
        got, spent = got + taken, torch.where(taken, time, spent)
    # more items first, then fewer moves
    best = (got * (int(spent.max()) + 1) - spent).argmax(-1, keepdim=True)  # (B, 1)
    following = _next(cells, left, orders[best[:, 0]])
    return got.gather(1, best)[:, 0], following


def _next(cells: Tensor, left: Tensor, order: Int[Tensor, "B M"]) -> Int[Tensor, "B"]:
    """The first cell of each order whose item is still there."""
    first = left.gather(1, order).int().argmax(-1, keepdim=True)
    return cells.gather(1, order.gather(1, first))[:, 0]
