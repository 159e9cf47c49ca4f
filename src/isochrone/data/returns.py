"""What episodes have earned, counted while they are played."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from isochrone.core.types import Step


class Returns:
    """Sums the rewards of each lane; an episode's return is told once its last row has come.

    Episodes that were under way when counting began are left out: `reset` says that all lanes begin anew.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.done: list[float] = []

    def reset(self) -> None:
        """Forget unfinished episodes."""
        self.sums = None

    def __call__(self, step: Step) -> None:
        """One more row of every lane. Rewards belong to the arrival, so a last row's counts and a first row's is 0."""
        reward = step.reward.double().cpu()
        fresh = torch.full_like(reward, torch.nan) if self.sums is None else self.sums
        self.sums = torch.where(step.first.cpu(), 0.0, fresh) + reward
        ended = self.sums[step.last.cpu()]
        self.done += ended[~ended.isnan()].tolist()

    def drain(self) -> list[float]:
        """Returns of the episodes that have ended since the last call."""
        done, self.done = self.done, []
        return done

    def state_dict(self) -> dict[str, Any]:
        """The finished ones that were not told yet."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; unfinished episodes are forgotten."""
        self.done, self.sums = [float(x) for x in state["done"]], None
