"""A* over predicted states, for discrete actions: every node is a latent state, every edge one imagined action.

Nodes are expanded in the order of f = g + weight * h, where g counts the actions so far (times `step`) and h is the
cost of the state, taken as the number of actions still to go.

Source: Hart, Nilsson, Raphael 1968; batched expansion as in batch-weighted A*, Agostinelli et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan, tree_map
from isochrone.planners.common import BoundCost, batch_and_device, evaluate_cost, score


@register("planner", "astar")
class AStar:
    """Best-first search in the model. With an exact model and distance it returns a shortest path (weight = 1).

    A row ends when no open node can be better than its best arrival, when no node is open, or when `expansions` are
    spent. Without an arrival the path to the node with the lowest h is returned. Longer paths are cut to `horizon` (the
    agent replans); shorter ones end in no-ops, or in greedy steps where the space has no no-op. Nothing is sampled, and
    a warm start is not used.

    A learned distance may be almost zero at a neighbour of the goal. Therefore arrivals are ranked by
    g + arrival_penalty * h, and the search goes on beyond an arrival with h > 0 while a better one is possible.

    Two nodes are merged where their states are closer than `merge_radius`. Rounded states as keys of a hash table would
    separate close states that round differently.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "astar"
        horizon: int = option(12, "actions returned (the search itself may look further)", ge=1, le=10_000)
        expansions: int = option(256, "nodes expanded per row at most", ge=1, le=1_048_576)
        width: int = option(8, "nodes of a row expanded together", ge=1, le=65_536)
        weight: float = option(1.0, "weight of h: above 1, longer paths sooner; corrects an h that is too small", ge=0)
        step: float = option(1.0, "cost of one action, in units of h (1 where h counts actions)", gt=0)
        goal_radius: float = option(0.5, "cost at or below which a state is the goal", ge=0)
        arrival_penalty: float = option(5.0, "actions worth taking to lower h at an arrival by one", ge=0)
        merge_radius: float = option(0.35, "states closer than this in every coordinate are one node", ge=0)
        merge_field: str = option("p", "field of the state compared for merging; its features where it has none such")

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: AStar.Config = validate(config, "astar.")
        self.action = action
        if not action.discrete:
            raise UserError("planner 'astar' needs discrete actions; these are continuous: choose cem or gradient")

    @torch.no_grad()
    def plan(self, imagine: Imagine, state: Any, cost: BoundCost, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]) with a trace.

        cost (iterations, B): lowest h so far; evaluations: imagined steps of the row that expanded most; reached (B)
        bool; length (B): actions to the chosen node; expanded (B): nodes.
        """
        c, size = self.config, self.action.size
        batch, device = batch_and_device(state)
        noop = self.action.idle((batch, 1, 1), device)  # (B, 1, 1, A)
        rounds = -(-c.expansions // c.width)
        root = evaluate_cost(cost, tree_map(lambda x: x[:, None, None], state), noop)[:, 0]  # (B)
        search = Search(c, state, self._merge_key(state), root, slots=1 + rounds * c.width * size)
        one_hots = self.action.one_hot(torch.arange(size, device=device))  # (A, A): each action once
        trace = []
        for _ in range(rounds):
            nodes, live = search.pop()  # (B, K) each
            if not bool(live.any()):
                break
            row, column = live.nonzero(as_tuple=True)  # (n) each: only nodes that exist are imagined
            moves = one_hots[None, :, None].expand(len(row), size, 1, size)  # (n, A, 1, A)
            children = imagine(search.states_at(row, nodes[row, column]), moves)  # (n, A, 1)
            children = tree_map(lambda x: x[:, :, 0], children)  # (n, A)
            slots = search.store(children, self._merge_key(children), row, column)
            stored = search.states_at(slice(None), slots, None)  # (B, K*A, 1)
            last_actions = one_hots.repeat(c.width, 1)[None, :, None].expand(batch, -1, 1, -1)  # (B, K*A, 1, A)
            search.push(evaluate_cost(cost, stored, last_actions), nodes, live)
            trace.append(search.lowest())
        moves, length = search.path(self.action.noop or 0)  # (B, L), (B)
        actions, extra = self._complete(imagine, state, cost, moves, length)
        return Plan(
            actions,
            score(imagine, state, cost, actions[:, None])[:, 0],
            {
                "cost": torch.stack(trace or [root]),
                "evaluations": int(search.expanded.max()) * size + extra,
                "expanded": search.expanded,
                "reached": search.goal >= 0,
                "length": length,
            },
        )

    def _merge_key(self, state: Any) -> Float[Tensor, "... F"]:
        field = getattr(state, self.config.merge_field, None)
        return field if isinstance(field, Tensor) else state.feat()

    def _complete(
        self, imagine: Imagine, state: Any, cost: BoundCost, moves: Int[Tensor, "B L"], length: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B H A"], int]:
        """The paths cut or filled to the horizon, and the imagined steps per row that this took."""
        horizon, size = self.config.horizon, self.action.size
        batch, longest = moves.shape
        fill = moves.new_full((batch, max(horizon - longest, 0)), self.action.noop or 0)
        moves = torch.cat([moves, fill], 1)[:, :horizon]  # (B, H)
        if self.action.noop is not None or bool((length >= horizon).all()):
            return self.action.one_hot(moves), horizon
        one_hots = torch.eye(size, device=moves.device)[None, :, None].expand(batch, size, 1, size)  # (B, A, 1, A)
        row = torch.arange(batch, device=moves.device)
        for t in range(horizon):
            children = imagine(state, one_hots)  # (B, A, 1)
            greedy = evaluate_cost(cost, children, one_hots).argmin(1)
            moves[:, t] = torch.where(t < length, moves[:, t], greedy)
            state = tree_map(lambda x, move=moves[:, t]: x[row, move, 0], children)
        return self.action.one_hot(moves), horizon * (size + 1)


class Search:
    """Nodes of B searches side by side, in tensors of M slots per row.

    Slot 0 is the root. Every round appends K * A slots (K = config.width) to all rows; a slot without a node has
    h = infinity. A round is: `pop` nodes, `store` their children, `push` the costs of these; at the end read `path`.
    """

    def __init__(
        self, config: AStar.Config, state: Any, key: Float[Tensor, "B F"], h: Float[Tensor, "B"], slots: int
    ) -> None:
        """state (B), key, h: the roots. `slots`: M, the most nodes that a row may ever have."""
        batch, device = len(h), h.device
        self.config, self.count = config, 1
        self.states = tree_map(lambda x: x.new_empty(batch, slots, *x.shape[1:]), state)
        self.keys = key.new_empty(batch, slots, key.shape[-1])
        self._write((slice(None), 0), state, key)
        self.h = torch.full((batch, slots), torch.inf, device=device)
        self.h[:, 0] = h
        self.depth = torch.zeros(batch, slots, dtype=torch.long, device=device)
        self.parent, self.move = torch.zeros_like(self.depth), torch.zeros_like(self.depth)
        self.open = torch.zeros(batch, slots, dtype=torch.bool, device=device)
        self.open[:, 0] = True
        self.goal = torch.full((batch,), -1, device=device)  # (B) slot of the best arrival, -1: none
        self.best = torch.full((batch,), torch.inf, device=device)  # (B) its rank
        self._update_goal(slice(0, 1), h[:, None] <= config.goal_radius)
        self.expanded = torch.zeros(batch, dtype=torch.long, device=device)

    def states_at(self, *index: Any) -> Any:
        """The states of some slots, by (row, slot) indices."""
        return tree_map(lambda x: x[index], self.states)

    def pop(self) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """The most promising open nodes of every row: their slots, and which of these exist. Closes them."""
        filled, step, width = slice(0, self.count), self.config.step, self.config.width
        f = step * self.depth[:, filled] + self.config.weight * self.h[:, filled]  # (B, m)
        # Another arrival is better by at least one action; half of one allows for the error of h.
        self.open[:, filled] &= f <= self.best[:, None] - 0.5 * step
        f = f - 1e-3 * step * self.depth[:, filled]  # among equal nodes, the deepest
        low, nodes = f.masked_fill(~self.open[:, filled], torch.inf).topk(min(width, self.count), 1, largest=False)
        live = low.isfinite()
        self.open.scatter_(1, nodes, self.open.gather(1, nodes) & ~live)
        self.expanded += live.sum(1)
        padding = width - nodes.shape[1]
        return torch.nn.functional.pad(nodes, (0, padding)), torch.nn.functional.pad(live, (0, padding))

    def store(
        self, children: Any, key: Float[Tensor, "n A F"], row: Int[Tensor, "n"], column: Int[Tensor, "n"]
    ) -> slice:
        """Write the children (n, A) of the nodes that `pop` returned at [row, column]; returns the new slots.

        Slots of nodes that do not exist repeat the root, so that every slot holds a valid state.
        """
        size = key.shape[1]
        slots = slice(self.count, self.count + self.config.width * size)
        root = tree_map(lambda x: x[:, :1], self.states)
        self._write((slice(None), slots), root, self.keys[:, :1])
        slot = self.count + column[:, None] * size + torch.arange(size, device=column.device)  # (n, A)
        self._write((row[:, None], slot), children, key)
        return slots

    def push(self, h: Float[Tensor, "B n"], nodes: Int[Tensor, "B K"], live: Bool[Tensor, "B K"]) -> None:
        """Open the children just stored, with their costs. A child close to a node that is no deeper is dropped."""
        size = h.shape[1] // nodes.shape[1]
        new = slice(self.count, self.count + h.shape[1])
        parent = nodes.repeat_interleave(size, 1)  # (B, K*A)
        self.parent[:, new] = parent
        self.move[:, new] = (torch.arange(h.shape[1], device=h.device) % size)[None]
        self.depth[:, new] = self.depth.gather(1, parent) + 1
        distinct = self._merge(new, live.repeat_interleave(size, 1) & h.isfinite())
        self.h[:, new] = h.masked_fill(~distinct, torch.inf)
        self.open[:, new] = distinct  # an arrival too: the goal itself may be next to a state that resembles it
        self._update_goal(new, distinct & (h <= self.config.goal_radius))
        self.count += h.shape[1]

    def lowest(self) -> Float[Tensor, "B"]:
        """Lowest h of all nodes."""
        return self.h[:, : self.count].amin(1)

    def path(self, fill: int) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B"]]:
        """Moves to the best arrival, else to the node other than the root with the lowest h; and their number."""
        h = (self.h + 1e-4 * self.config.step * self.depth)[:, : self.count].clone()
        if self.count > 1:
            h[:, 0] = torch.where(h[:, 1:].isfinite().any(1), torch.inf, h[:, 0])
        node = torch.where(self.goal >= 0, self.goal, h.argmin(1))[:, None]  # (B, 1)
        length = self.depth.gather(1, node)[:, 0]
        moves = torch.full((len(h), max(int(length.max()), 1)), fill, dtype=torch.long, device=h.device)
        for _ in range(int(length.max())):
            depth = self.depth.gather(1, node)  # (B, 1)
            index = (depth - 1).clamp(min=0)
            inside = depth > 0
            moves.scatter_(1, index, torch.where(inside, self.move.gather(1, node), moves.gather(1, index)))
            node = torch.where(inside, self.parent.gather(1, node), node)
        return moves, length

    def _write(self, index: Any, state: Any, key: Tensor) -> None:
        fields: list[Tensor] = []
        tree_map(lambda x: fields.append(x) or x, state)
        values = iter(fields)

        def fill(x: Tensor) -> Tensor:
            x[index] = next(values)
            return x

        tree_map(fill, self.states)
        self.keys[index] = key

    def _merge(self, new: slice, exists: Bool[Tensor, "B n"]) -> Bool[Tensor, "B n"]:
        """Which of the new nodes remain. An older open node that is now reached in fewer actions is closed."""
        row = exists.any(1).nonzero()[:, 0]  # (b) only rows that still search are compared
        key, real = self.keys[row, new].float(), exists[row]  # (b, n, F), (b, n)
        old = slice(0, new.start)
        depth, old_depth = self.depth[row, new], self.depth[row, old]  # (b, n), (b, m)
        near = self._near(key, self.keys[row, old].float()) & self.h[row, old].isfinite()[:, None]  # (b, n, m)
        no_deeper = old_depth[:, None] <= depth[..., None]
        keep = real & ~(near & no_deeper).any(2)
        self.open[row, old] &= ~(near & ~no_deeper & keep[..., None]).any(1)
        order = torch.arange(depth.shape[1], device=depth.device)
        earlier = (depth[:, None] < depth[..., None]) | (
            (depth[:, None] == depth[..., None]) & (order[None] < order[:, None])
        )  # (b, i, j): j goes before i
        duplicate = self._near(key, key) & earlier & keep[:, None]
        remains = torch.zeros_like(exists)
        remains[row] = keep & ~duplicate.any(2)
        return remains

    def _near(self, a: Float[Tensor, "b n F"], b: Float[Tensor, "b m F"]) -> Bool[Tensor, "b n m"]:
        """Closer than `merge_radius` in every coordinate."""
        return torch.cdist(a, b, p=torch.inf) <= self.config.merge_radius

    def _update_goal(self, new: slice, arrived: Bool[Tensor, "B n"]) -> None:
        """Keep the arrival with the lowest rank: few actions, and a low cost that is left."""
        rank = self.config.step * self.depth[:, new] + self.config.arrival_penalty * self.h[:, new]
        low, index = rank.masked_fill(~arrived, torch.inf).min(1)
        better = low < self.best
        self.goal = torch.where(better, index + new.start, self.goal)
        self.best = torch.where(better, low, self.best)
