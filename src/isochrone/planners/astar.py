"""The open and closed nodes of a batched best-first search: B searches side by side in flat tensors of M slots.

Slot 0 is the root. Every round appends K * A slots to all rows; a slot without a node has h = infinity.

A* over predicted states, for discrete actions: every node is a latent state, every edge one imagined action.

f = g + weight * h, where g counts the actions so far (times `step`) and h is the cost of the state reached, taken as
the actions still to go. The best open nodes of every row are expanded together, one imagined step per action.

Source: Hart, Nilsson, Raphael 1968; batched expansion as in batch-weighted A*, Agostinelli et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan, tree_map
from isochrone.planners.common import Bound, extent, priced, score


class Rules(NamedTuple):
    """What the search must know; the lattice planner's Config explains each."""

    weight: float
    step: float
    goal_radius: float
    merge: float
    doubt: float


class Frontier:
    """Working memory of one search. `pop` nodes, `write` their children, `push` their prices; then read `path`."""

    def __init__(self, state: Any, key: Tensor, h: Tensor, rules: Rules, slots: int) -> None:
        """state (B), key (B, F), h (B): the roots. `slots`: M, the most nodes a row may ever hold."""
        batch, device = len(h), h.device
        self.rules, self.count = rules, 1
        self.states = tree_map(lambda x: x.new_empty(batch, slots, *x.shape[1:]), state)
        self.keys = key.new_empty(batch, slots, key.shape[-1])
        self._put((slice(None), 0), state, key)
        self.h = torch.full((batch, slots), torch.inf, device=device)
        self.h[:, 0] = h
        self.depth = torch.zeros(batch, slots, dtype=torch.long, device=device)
        self.parent, self.move = torch.zeros_like(self.depth), torch.zeros_like(self.depth)
        self.open = torch.zeros(batch, slots, dtype=torch.bool, device=device)
        self.open[:, 0] = True
        self.goal = torch.full((batch,), -1, device=device)  # (B,) slot of the best arrival, -1: none
        self.best = torch.full((batch,), torch.inf, device=device)  # (B,) its rank
        self._arrive(slice(0, 1), h[:, None] <= rules.goal_radius)
        self.expanded = torch.zeros(batch, dtype=torch.long, device=device)

    def _put(self, where: Any, state: Any, key: Tensor) -> None:
        fields: list[Tensor] = []
        tree_map(lambda x: fields.append(x) or x, state)
        mine = iter(fields)

        def fill(x: Tensor) -> Tensor:
            x[where] = next(mine)
            return x

        tree_map(fill, self.states)
        self.keys[where] = key

    def at(self, *index: Any) -> Any:
        """The states of some slots, by (row, slot) indices."""
        return tree_map(lambda x: x[index], self.states)

    def pop(self, width: int) -> tuple[Tensor, Tensor]:
        """The `width` most promising open nodes of every row: slots (B, K), which exist (B, K). Closes them."""
        used, rules = slice(0, self.count), self.rules
        f = rules.step * self.depth[:, used] + rules.weight * self.h[:, used]  # (B, m)
        # Another arrival is better by at least one action; half of one absorbs the error of h.
        self.open[:, used] &= f <= self.best[:, None] - 0.5 * rules.step
        deeper = f - 1e-3 * rules.step * self.depth[:, used]  # between equals, the one that has come farther
        low, nodes = deeper.masked_fill(~self.open[:, used], torch.inf).topk(min(width, self.count), 1, largest=False)
        live = low.isfinite()
        self.open.scatter_(1, nodes, self.open.gather(1, nodes) & ~live)
        self.expanded += live.sum(1)
        short = width - nodes.shape[1]
        return torch.nn.functional.pad(nodes, (0, short)), torch.nn.functional.pad(live, (0, short))

    def write(self, kids: Any, key: Tensor, row: Tensor, place: Tensor, width: int) -> slice:
        """Store the children (n, A) of the nodes in columns `place` of `row`; the rest repeats the root."""
        size = key.shape[1]
        slots = slice(self.count, self.count + width * size)
        root = tree_map(lambda x: x[:, :1], self.states)
        self._put((slice(None), slots), root, self.keys[:, :1])
        where = self.count + place[:, None] * size + torch.arange(size, device=place.device)  # (n, A)
        self._put((row[:, None], where), kids, key)
        return slots

    def push(self, h: Tensor, nodes: Tensor, live: Tensor) -> None:
        """Prices h (B, K*A) of the children just written. A child near a node that came as cheaply is dropped."""
        size = h.shape[1] // nodes.shape[1]
        new = slice(self.count, self.count + h.shape[1])
        parent = nodes.repeat_interleave(size, 1)  # (B, K*A)
        self.parent[:, new] = parent
        self.move[:, new] = (torch.arange(h.shape[1], device=h.device) % size)[None]
        self.depth[:, new] = self.depth.gather(1, parent) + 1
        born = self._merged(new, live.repeat_interleave(size, 1) & h.isfinite())
        self.h[:, new] = h.masked_fill(~born, torch.inf)
        arrived = born & (h <= self.rules.goal_radius)
        self.open[:, new] = born  # an arrival too: the goal itself may be next to what was taken for it
        self._arrive(new, arrived)
        self.count += h.shape[1]

    def _merged(self, new: slice, born: Tensor) -> Tensor:
        """Which of the new nodes (B, n) remain. An older open node that is now reached in fewer actions is closed."""
        row = born.any(1).nonzero()[:, 0]  # (b,) only rows that still search are compared
        fresh, made = self.keys[row, new].float(), born[row]  # (b, n, F), (b, n)
        old = slice(0, new.start)
        depth, past = self.depth[row, new], self.depth[row, old]  # (b, n), (b, m)
        exists = self.h[row, old].isfinite()  # (b, m)
        near = self._near(fresh, self.keys[row, old].float()) & exists[:, None]  # (b, n, m)
        cheaper = past[:, None] <= depth[..., None]
        keep = made & ~(near & cheaper).any(2)
        self.open[row, old] &= ~(near & ~cheaper & keep[..., None]).any(1)
        order = torch.arange(depth.shape[1], device=depth.device)
        before = (depth[:, None] < depth[..., None]) | (
            (depth[:, None] == depth[..., None]) & (order[None] < order[:, None])
        )  # (b, i, j): j was first
        twin = self._near(fresh, fresh) & before & keep[:, None]
        out = torch.zeros_like(born)
        out[row] = keep & ~twin.any(2)
        return out

    def _near(self, a: Tensor, b: Tensor) -> Tensor:
        """(b, n, F), (b, m, F) -> (b, n, m): within `merge` in every coordinate."""
        return torch.cdist(a, b, p=torch.inf) <= self.rules.merge

    def _arrive(self, new: slice, arrived: Tensor) -> None:
        """Keep the arrival with the lowest rank: few actions, and little doubt that it is one."""
        rank = self.rules.step * self.depth[:, new] + self.rules.doubt * self.h[:, new]
        low, index = rank.masked_fill(~arrived, torch.inf).min(1)
        better = low < self.best
        self.goal = torch.where(better, index + new.start, self.goal)
        self.best = torch.where(better, low, self.best)

    def nearest(self) -> Tensor:
        """(B,) lowest h seen."""
        return self.h[:, : self.count].amin(1)

    def reached(self) -> Tensor:
        """(B,) bool: is there an arrival?"""
        return self.goal >= 0

    def path(self, fill: int) -> tuple[Tensor, Tensor]:
        """Moves (B, L) to the arrival, or to the node with the lowest h but the root; and their number (B)."""
        h = (self.h + 1e-4 * self.rules.step * self.depth)[:, : self.count].clone()
        if self.count > 1:
            h[:, 0] = torch.where(h[:, 1:].isfinite().any(1), torch.inf, h[:, 0])
        node = torch.where(self.goal >= 0, self.goal, h.argmin(1))[:, None]  # (B, 1)
        length = self.depth.gather(1, node)[:, 0]
        moves = torch.full((len(h), max(int(length.max()), 1)), fill, dtype=torch.long, device=h.device)
        for _ in range(int(length.max())):
            depth = self.depth.gather(1, node)  # (B, 1)
            at = (depth - 1).clamp(min=0)
            going = depth > 0
            moves.scatter_(1, at, torch.where(going, self.move.gather(1, node), moves.gather(1, at)))
            node = torch.where(going, self.parent.gather(1, node), node)
        return moves, length


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
