"""Random shooting: the best of many uniform sequences. The floor for every other planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from isochrone.core.config import option, validate
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import Bound, extent, fitted, pick, score


@register("planner", "shooting")
class Shooting:
    """`candidates` uniform sequences (the warm start is one of them), the cheapest is returned."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "shooting"
        horizon: int = option(12, "actions planned ahead", ge=1)
        candidates: int = option(1024, "sequences imagined", ge=1)
        repeat: int = option(1, "steps for which each drawn action is kept", ge=1)
        chunk: int | None = option(None, "sequences imagined at once over the whole batch (none: fit the device)", ge=1)

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Shooting.Config = validate(config, "shooting.")
        self.action = action

    @torch.no_grad()
    def plan(self, imagine: Imagine, state: Any, cost: Bound, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (1, B), evaluations (imagined steps per row)."""
        c = self.config
        batch, device = extent(state)
        guess = fitted(warm, self.action, batch, c.horizon, device)  # (B, H, A)
        blocks = -(-c.horizon // c.repeat)
        drawn = self.action.sample((c.candidates, blocks), rng).to(device)  # (N, H / repeat, A), shared by the rows
        pool = drawn.repeat_interleave(c.repeat, 1)[:, : c.horizon].expand(batch, -1, -1, -1)  # (B, N, H, A)
        if guess is not None:
            pool = torch.cat([guess[:, None], pool[:, 1:]], 1)
        prices = score(imagine, state, cost, pool, c.chunk)  # (B, N)
        price, index = prices.min(1)
        best = pick(pool, index[:, None])[:, 0]  # (B, H, A)
        return Plan(best, price, {"cost": price[None], "evaluations": c.candidates * c.horizon})
