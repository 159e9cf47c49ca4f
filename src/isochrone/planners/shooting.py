"""Random shooting: the best of many uniformly random sequences. The baseline of every other planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from isochrone.core.config import option, validate
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.tensors import gather_rows
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import BoundCost, batch_and_device, fit_warm_start, score


@register("planner", "shooting")
class Shooting:
    """Imagines `candidates` uniform sequences, of which the warm start is one, and returns the cheapest."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "shooting"
        horizon: int = option(12, "actions planned ahead", ge=1, le=10_000)
        candidates: int = option(1024, "sequences imagined", ge=1, le=1_048_576)
        hold_steps: int = option(1, "steps for which each sampled action is repeated", ge=1, le=10_000)
        chunk: int | None = option(
            None, "sequences imagined together over the whole batch (none: fit the device)", ge=1
        )

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Shooting.Config = validate(config, "shooting.")
        self.action = action

    @torch.no_grad()
    def plan(self, imagine: Imagine, state: Any, cost: BoundCost, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (1, B), evaluations (imagined steps per row)."""
        c = self.config
        batch, device = batch_and_device(state)
        guess = fit_warm_start(warm, self.action, batch, c.horizon, device)  # (B, H, A)
        blocks = -(-c.horizon // c.hold_steps)
        sampled = self.action.sample((c.candidates, blocks), rng).to(device)  # (N, blocks, A), shared by the rows
        repeated = sampled.repeat_interleave(c.hold_steps, 1)[:, : c.horizon]  # (N, H, A)
        candidates = repeated.expand(batch, -1, -1, -1)  # (B, N, H, A)
        if guess is not None:
            candidates = torch.cat([guess[:, None], candidates[:, 1:]], 1)
        lowest, index = score(imagine, state, cost, candidates, c.chunk).min(1)  # (B)
        best = gather_rows(candidates, index[:, None])[:, 0]  # (B, H, A)
        return Plan(best, lowest, {"cost": lowest[None], "evaluations": c.candidates * c.horizon})
