"""What every planner is compared with: the true shortest path replayed, doing nothing, and wandering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.types import ActionSpec, tree_map


class Replay:
    """Plays recorded actions (P, L, A) blindly, then idles. Less than 100 % is a fault of the task."""

    def __init__(self, actions: Float[Tensor, "P L A"], action: ActionSpec) -> None:
        self.actions, self.action = actions, action

    def start(self, batch: int) -> dict[str, Tensor]:
        return {"row": torch.arange(batch), "step": torch.zeros(batch, dtype=torch.long)}

    def act(self, obs: Mapping[str, Tensor], carry: Any, mode: str) -> tuple[Tensor, Any, dict[str, Any]]:
        row, step = carry["row"], carry["step"]
        length = self.actions.shape[1]
        played = self.actions[row, step.clamp(max=length - 1)] if length else self.action.idle((len(row),))
        idle = self.action.idle((len(row),))
        action = torch.where((step < length)[:, None], played, idle)
        return action, tree_map(lambda x: x, carry) | {"step": step + 1}, {}


class Idle:
    """Does nothing (action 0 where the space has no such action)."""

    def __init__(self, action: ActionSpec) -> None:
        self.action = action

    def start(self, batch: int) -> dict[str, Tensor]:
        return {"row": torch.arange(batch)}

    def act(self, obs: Mapping[str, Tensor], carry: Any, mode: str) -> tuple[Tensor, Any, dict[str, Any]]:
        return self.action.idle((len(carry["row"]),)), carry, {}


class Wander(Idle):
    """Uniform random actions from its own generator."""

    def __init__(self, action: ActionSpec, rng: torch.Generator) -> None:
        super().__init__(action)
        self.rng = rng

    def act(self, obs: Mapping[str, Tensor], carry: Any, mode: str) -> tuple[Tensor, Any, dict[str, Any]]:
        return self.action.sample((len(carry["row"]),), self.rng), carry, {}


def shortest(env: Any, start: Any, goal: Any, options: Float[Tensor, "K A"]) -> Float[Tensor, "P L A"]:
    """Actions that walk down the true distance, for the floor only: a shortest path where the distance is exact.

    Between the lattice points of a continuous world the true distance is only nearly known and one step may not lower
    it: there, two steps are looked ahead, and the walk may take twice as long.
    """
    left = env.distance(start, goal)
    longest = int(left[torch.isfinite(left)].max().item()) if len(left) else 0
    state, actions = start, []
    for _ in range(longest if env.spec.action.discrete else 2 * longest):
        here = _after(env, state, goal, options)  # (P, K)
        if not env.spec.action.discrete:
            ahead = [
                _after(env, env.transition(state, a.expand(len(left), -1)), goal, options).amin(-1) for a in options
            ]
            here = torch.stack(ahead, -1) + 0.01 * here
        actions.append(options[here.argmin(-1)])
        state = env.transition(state, actions[-1])
    return torch.stack(actions, 1) if actions else torch.zeros(len(left), 0, options.shape[-1])


def _after(env: Any, state: Any, goal: Any, options: Float[Tensor, "K A"]) -> Float[Tensor, "P K"]:
    """True distance left after each option."""
    count = len(state.position)
    return torch.stack([env.distance(env.transition(state, a.expand(count, -1)), goal) for a in options], -1)
