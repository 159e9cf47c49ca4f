"""What a plan should achieve, as small formulas that add and scale: `Reach(d) + 0.1 * Effort(action)`.

A formula is called with (states[B,N,H], actions[B,N,H,A], goal[B]) and returns cost[B,N], lower is better.
`bind(goal)` fixes the goal: that is what a planner takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.types import ActionSpec, tree_map

Distance = Callable[[Any, Any], Tensor]
"""(states[B,N,H], goal[B,1,1]) -> distance[B,N,H]: a model's distance, bound to the space it is measured in."""

Value = Callable[[Any], Tensor]
"""states[B,N,H] -> number[B,N,H]: a model's reward or continue head."""

KINDS = ("path", "final", "first")


class Formula:
    """The algebra shared by all costs: `a + b`, `0.5 * a`, `a.bind(goal)`."""

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]:
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def bind(self, goal: Any) -> Callable[[Any, Tensor], Tensor]:
        """(states, actions) -> cost[B,N] for this goal."""
        return lambda states, actions: self(states, actions, goal)

    def __add__(self, other: Any) -> Weighted:
        if not isinstance(other, Formula):
            return NotImplemented
        return Weighted(((1.0, self), (1.0, other)))

    def __mul__(self, weight: Any) -> Weighted:
        if not isinstance(weight, (int, float)):
            return NotImplemented
        return Weighted(((float(weight), self),))

    __rmul__ = __mul__


class Weighted(Formula):
    """A weighted sum of formulas."""

    def __init__(self, parts: tuple[tuple[float, Formula], ...]) -> None:
        flat: list[tuple[float, Formula]] = []
        for weight, part in parts:
            if weight != weight or abs(weight) == float("inf"):
                raise UserError(f"cost weight {weight} is not a finite number")
            inner = part.parts if isinstance(part, Weighted) else ((1.0, part),)
            flat += [(weight * share, leaf) for share, leaf in inner]
        self.parts = tuple(flat)

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]:
        total = actions.new_zeros(actions.shape[:2])  # (B, N)
        for weight, part in self.parts:
            total = total + weight * part(states, actions, goal)
        return total


class Reach(Formula):
    """Come near the goal. In the units of `distance` (actions, where that is d_p).

    path:  mean distance over the steps, so that early arrival and staying there pay (the default);
    final: distance after the last step;
    first: steps until the distance is at most `radius`; a path that never arrives costs H plus what is left at its end.
           It counts steps, hence carries a gradient only before arrival.
    """

    def __init__(self, distance: Distance, kind: str = "path", radius: float = 0.5) -> None:
        if kind not in KINDS:
            raise UserError(f"no reach cost of kind '{kind}'{did_you_mean(kind, KINDS)}")
        if not radius >= 0:
            raise UserError(f"reach radius = {radius}: must be at least 0")
        self.distance, self.kind, self.radius = distance, kind, radius

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]:
        if goal is None:
            raise UserError("a reach cost needs a goal; got None: start the agent with goal=observations")
        far = self.distance(states, tree_map(lambda x: x[:, None, None], goal))  # (B, N, H)
        if far.shape != actions.shape[:3]:
            raise UserError(f"distance returned {tuple(far.shape)}; expected (B, N, H) = {tuple(actions.shape[:3])}")
        if self.kind == "path":
            return far.mean(-1)
        if self.kind == "final":
            return far[..., -1]
        away = (far > self.radius).to(far.dtype).cumprod(-1)  # (B, N, H) 1 until the first arrival
        return away.sum(-1) + away[..., -1] * far[..., -1]


class Return(Formula):
    """Minus the sum of expected rewards over the plan; lower is better. No goal is needed.

    With `continues` (states -> probability that the episode goes on) what lies behind a likely end counts less;
    PlaNet has neither that nor a `discount`.
    """

    def __init__(self, rewards: Value, continues: Value | None = None, discount: float = 1.0) -> None:
        if not 0 < discount <= 1:
            raise UserError(f"return discount = {discount}: must lie in (0, 1]")
        self.rewards, self.continues, self.discount = rewards, continues, discount

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]:
        reward = self.rewards(states)  # (B, N, H)
        if self.discount < 1:
            steps = torch.arange(reward.shape[-1], device=reward.device)
            reward = reward * self.discount**steps
        if self.continues is not None:
            alive = self.continues(states)[..., :-1].cumprod(-1)  # the reward of an ending step still counts
            reward = reward * torch.cat([torch.ones_like(alive[..., :1]), alive], -1)[..., : reward.shape[-1]]
        return -reward.sum(-1)


class Effort(Formula):
    """What acting costs: mean over steps of the squared action, or the share of steps that are not the no-op."""

    def __init__(self, action: ActionSpec) -> None:
        if action.discrete and action.noop is None:
            raise UserError("effort of discrete actions counts those that are not the no-op; this space has no no-op")
        self.action = action

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]:
        if self.action.discrete:
            return 1 - actions[..., self.action.noop].mean(-1)
        return actions.square().sum(-1).mean(-1)


def mixed(distances: Mapping[str, tuple[float, Distance]], kind: str = "path") -> Formula:
    """One reach cost over several spaces: {'p': (1.0, d_p), 'z': (0.1, d_z)}. Each keeps its own units."""
    if not distances:
        raise UserError("a mixed cost needs at least one distance")
    return Weighted(tuple((weight, Reach(distance, kind)) for weight, distance in distances.values()))
