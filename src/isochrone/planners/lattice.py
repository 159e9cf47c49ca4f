"""A* over predicted states, for discrete actions: every node is a latent state, every edge one imagined action.

f = g + weight * h, where g counts the actions so far (times `step`) and h is the cost of the state reached, taken as
the actions still to go. The best open nodes of every row are expanded together, one imagined step per action.

Source: Hart, Nilsson, Raphael 1968; batched expansion as in batch-weighted A*, Agostinelli et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan, tree_map
from isochrone.planners.frontier import Frontier, Rules
from isochrone.planners.score import Bound, extent, priced, score


@register("planner", "lattice")
class Lattice:
    """Best-first search in the model. With an exact model and distance it returns a shortest path (weight = 1).

    A row ends when no open node can beat its best arrival, when nothing is open, or when `expansions` are spent.
    Without an arrival the path to the node with the lowest h is returned. Longer paths are cut to `horizon` (the agent
    replans); shorter ones end in no-ops, or in greedy steps where the space has no no-op. Nothing is drawn, and a warm
    start is not used.

    A learned distance may take a neighbour for the goal. So arrivals are ranked by g + doubt * h, and one that keeps
    some distance is left again if a better one is found beyond it.

    States met twice are found by their distance in `key`, not by rounding it: rounded keys tear neighbours apart.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "lattice"
        horizon: int = option(12, "actions returned (the search itself may look further)", ge=1)
        expansions: int = option(256, "nodes expanded per row at most", ge=1)
        width: int = option(8, "nodes of a row expanded together", ge=1)
        weight: float = option(1.0, "trust in h: above 1 finds longer paths sooner, and outweighs underestimates", ge=0)
        step: float = option(1.0, "price of one action, in units of the cost (1 where that counts actions)", gt=0)
        goal_radius: float = option(0.5, "cost at or below which a state is the goal", ge=0)
        doubt: float = option(5.0, "actions worth taking to lower the cost of an arrival by one", ge=0)
        merge: float = option(0.35, "states nearer than this in every coordinate of `key` are one", ge=0)
        key: str = option("p", "field of the state compared for merging; its feature vector where it has no such field")

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Lattice.Config = validate(config, "lattice.")
        self.action = action
        if not action.discrete:
            raise UserError("planner 'lattice' needs discrete actions; these are continuous: choose cem or gradient")

    @torch.no_grad()
    def plan(self, imagine: Imagine, state: Any, cost: Bound, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]) with a trace.

        cost (iterations, B): lowest h so far; evaluations: imagined steps of the busiest row; reached (B) bool;
        length (B): actions to the node chosen; expanded (B): nodes.
        """
        c, size = self.config, self.action.size
        batch, device = extent(state)
        idle = self.action.idle((batch, 1, 1), device)  # (B, 1, 1, A)
        rounds = -(-c.expansions // c.width)
        root = priced(cost, tree_map(lambda x: x[:, None, None], state), idle)[:, 0]  # (B,)
        rules = Rules(c.weight, c.step, c.goal_radius, c.merge, c.doubt)
        frontier = Frontier(state, self._key(state), root, rules, 1 + rounds * c.width * size)
        every = self.action.one_hot(torch.arange(size, device=device))  # (A, A): each action once
        trace = []
        for _ in range(rounds):
            nodes, live = frontier.pop(c.width)  # (B, K) each
            if not bool(live.any()):
                break
            row, place = live.nonzero(as_tuple=True)  # (n,) only nodes that exist are imagined
            moves = every[None, :, None].expand(len(row), size, 1, size)  # (n, A, 1, A)
            kids = imagine(frontier.at(row, nodes[row, place]), moves)  # (n, A, 1)
            kids = tree_map(lambda x: x[:, :, 0], kids)  # (n, A)
            slots = frontier.write(kids, self._key(kids), row, place, c.width)
            born = frontier.at(slice(None), slots, None)  # (B, K*A, 1)
            taken = every.repeat(c.width, 1)[None, :, None].expand(batch, -1, 1, -1)  # (B, K*A, 1, A)
            frontier.push(priced(cost, born, taken), nodes, live)
            trace.append(frontier.nearest())
        moves, length = frontier.path(self.action.noop or 0)  # (B, L), (B,)
        actions, extra = self._complete(imagine, state, cost, moves, length)
        counts = {"evaluations": int(frontier.expanded.max()) * size + extra, "expanded": frontier.expanded}
        found = {"reached": frontier.reached(), "length": length}
        price = score(imagine, state, cost, actions[:, None])[:, 0]
        return Plan(actions, price, {"cost": torch.stack(trace or [root]), **counts, **found})

    def _key(self, state: Any) -> Tensor:
        field = getattr(state, self.config.key, None)
        return field if isinstance(field, Tensor) else state.feat()

    def _complete(self, imagine: Imagine, state: Any, cost: Bound, moves: Tensor, length: Tensor) -> tuple[Tensor, int]:
        """Cut or fill the paths (B, L) to one-hot actions (B, H, A); also the imagined steps per row this took."""
        horizon, size = self.config.horizon, self.action.size
        batch, known = moves.shape
        fill = moves.new_full((batch, max(horizon - known, 0)), self.action.noop or 0)
        moves = torch.cat([moves, fill], 1)[:, :horizon]  # (B, H)
        if self.action.noop is not None or bool((length >= horizon).all()):
            return self.action.one_hot(moves), horizon
        every = torch.eye(size, device=moves.device)[None, :, None].expand(batch, size, 1, size)  # (B, A, 1, A)
        row = torch.arange(batch, device=moves.device)
        for t in range(horizon):
            kids = imagine(state, every)  # (B, A, 1)
            greedy = priced(cost, kids, every).argmin(1)
            moves[:, t] = torch.where(t < length, moves[:, t], greedy)
            state = tree_map(lambda x, at=moves[:, t]: x[row, at, 0], kids)
        return self.action.one_hot(moves), horizon * (size + 1)
