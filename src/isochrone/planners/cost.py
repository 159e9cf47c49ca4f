"""What a plan should achieve: come near a goal, or earn a high return.

A cost is called with (states[B,N,H], actions[B,N,H,A], goal[B]) and returns cost[B,N], lower is better. A planner takes
it with its goal bound: functools.partial(cost, goal=goal).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.types import tree_map

Distance = Callable[[Any, Any], Tensor]
"""(states[B,N,H], goal[B,1,1]) -> distance[B,N,H]: a model's distance, with its space bound."""

Value = Callable[[Any], Tensor]
"""states[B,N,H] -> number[B,N,H]: a model's reward or continue head."""

KINDS = ("path", "final", "first")


class ReachCost:
    """Distance to the goal, in the units of `distance` (actions, where that is d_p).

    path:  mean distance over the steps, so that early arrival and staying there lower the cost (the default);
    final: distance after the last step;
    first: steps until the distance is at most `radius`; a path that never arrives costs H plus its last distance. It
           counts steps, hence has a gradient only where the path does not arrive.

    UserError for another kind, or a negative radius.
    """

    def __init__(self, distance: Distance, kind: str = "path", radius: float = 0.5) -> None:
        if kind not in KINDS:
            raise UserError(f"no reach cost of kind '{kind}'{did_you_mean(kind, KINDS)}")
        if not radius >= 0:
            raise UserError(f"reach radius = {radius}: must be at least 0")
        self.distance, self.kind, self.radius = distance, kind, radius

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]:
        """UserError without a goal, or where the distance has another shape than (B, N, H)."""
        if goal is None:
            raise UserError("a reach cost needs a goal; got None: start the agent with goal=observations")
        distance = self.distance(states, tree_map(lambda x: x[:, None, None], goal))  # (B, N, H)
        if distance.shape != actions.shape[:3]:
            expected = tuple(actions.shape[:3])
            raise UserError(f"distance returned {tuple(distance.shape)}; expected (B, N, H) = {expected}")
        if self.kind == "path":
            return distance.mean(-1)
        if self.kind == "final":
            return distance[..., -1]
        away = (distance > self.radius).to(distance.dtype).cumprod(-1)  # (B, N, H) 1 until the first arrival
        return away.sum(-1) + away[..., -1] * distance[..., -1]


class ReturnCost:
    """Minus the sum of expected rewards over the plan. No goal is needed.

    With `continues` (states -> probability that the episode continues) rewards after a likely end count less; PlaNet
    has neither that nor a `discount`. UserError where the discount is not in (0, 1].
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
            alive = self.continues(states)[..., :-1].cumprod(-1)  # the reward of the last step of an episode counts
            reward = reward * torch.cat([torch.ones_like(alive[..., :1]), alive], -1)[..., : reward.shape[-1]]
        return -reward.sum(-1)
