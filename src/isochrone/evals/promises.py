"""Does the planner exploit its model? What plans promise, beside what then came. For measuring only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isochrone.evals.latent import numpy
from isochrone.evals.stats import bootstrap_mean


class Promises:
    """Listens to an episode: `made` at every action, `came` at every step.

    The cost of a plan for reward is minus the sum of `discount`ed rewards over its horizon.
    """

    def __init__(self, discount: float = 1.0) -> None:
        self.discount = discount
        self.horizon = 0
        self.promised: dict[int, Tensor] = {}  # step -> (B,); steps at which an older plan is followed are left out
        self.reward: list[Tensor] = []  # (B,) per step, 0 where the world has ended
        self.alive: list[Tensor] = []  # (B,) did it come in the world's first episode, unbroken?

    def made(self, info: Mapping[str, Any]) -> None:
        """What `MPC.act` says of the plan in force."""
        self.horizon = info["plan"].shape[1]
        if info["replanned"]:
            self.promised[len(self.reward)] = -info["cost"].double().cpu()

    def came(self, reward: Tensor, alive: Tensor) -> None:
        self.reward.append(reward.double().cpu() * alive)
        self.alive.append(alive.clone())

    def kept(self, rng: np.random.Generator) -> dict[str, Any]:
        """{'promised', 'came', 'overpromise' (promised - came)}: means per plan over those whose whole horizon was
        played, with a bootstrap over worlds; empty where no plan had the time. Later plans correct earlier ones, so
        what came is more than a plan alone would have brought."""
        if not self.reward:
            return {}
        reward, alive = (torch.stack(x, 1) for x in (self.reward, self.alive))  # (B, T)
        starts = [t for t in self.promised if t + self.horizon <= reward.shape[1]]
        weight = self.discount ** torch.arange(self.horizon, dtype=torch.float64)
        told, got = [], []
        for t in starts:
            whole = alive[:, t : t + self.horizon].all(1)
            told.append(torch.where(whole, self.promised[t], torch.nan))
            got.append(torch.where(whole, (reward[:, t : t + self.horizon] * weight).sum(1), torch.nan))
        if not starts or not (rows := ~torch.stack(told, 1).isnan().all(1)).any():
            return {}
        promised, came = (numpy(torch.stack(x, 1).nanmean(1)[rows]) for x in (told, got))
        return {
            "promised": float(promised.mean()),
            "came": float(came.mean()),
            "overpromise": float((promised - came).mean()),
            "overpromise.interval": bootstrap_mean(promised - came, rng),
        }
