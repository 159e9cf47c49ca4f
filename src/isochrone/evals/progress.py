"""Progress of an evaluation while agents act, which may take minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from isochrone.core.protocols import Agent, PlansReturns

Progress = Callable[[str, int, int], None]
"""(what is done, steps done, steps at most; 0 where that is unknown)."""


def watched(agents: Mapping[str, Agent], progress: Progress | None, what: str, most: int = 0) -> Mapping[str, Agent]:
    """The agents; where `progress` is given, they report their steps to it."""
    if progress is None:
        return agents
    return {name: WatchedAgent(agent, progress, f"{what} with {name}", most) for name, agent in agents.items()}


class WatchedAgent:
    """An agent that reports after every action how many steps of the episodes are done."""

    def __init__(self, agent: Agent, progress: Progress, what: str, most: int = 0) -> None:
        self.agent, self.progress, self.what, self.most = agent, progress, what, most
        self.name, self.needs_goal, self.count = agent.name, agent.needs_goal, 0
        self.return_discount = agent.return_discount if isinstance(agent, PlansReturns) else None

    def start(self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: Any = None) -> Any:
        return self.agent.start(batch, goal, rng)

    def restart(self, carry: Any, rows: Tensor, goal: Mapping[str, Tensor] | None = None) -> Any:
        return self.agent.restart(carry, rows, goal)

    def act(self, obs: Mapping[str, Tensor], carry: Any, mode: str = "eval") -> tuple[Tensor, Any, dict[str, Any]]:
        out = self.agent.act(obs, carry, mode)
        self.count += 1
        self.progress(self.what, self.count, self.most)
        return out
