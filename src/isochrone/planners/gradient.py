"""Gradient planning: Adam from several starts, clipped to the action box; discrete actions relaxed by a softmax.

Source: docs/background.md, "Gradient planning".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.tensors import gather_rows
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import (
    BoundCost,
    Descent,
    add_restarts,
    batch_and_device,
    differentiable,
    first_restart,
    initial_logits,
    keep_better,
    score,
)


@register("planner", "gradient")
class Gradient:
    """`restarts` sequences descend side by side; the cheapest legal sequence met on the way is returned.

    Continuous: the sequence is clamped to the box after each step, so every cost is that of a legal plan.
    Discrete: softmax(logits) is imagined, and every `rescore` steps the cost of its most probable actions is computed.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "gradient"
        horizon: int = option(12, "actions planned ahead", ge=1, le=10_000)
        restarts: int = option(8, "starts: the warm start or no-ops, the others random", ge=1, le=65_536)
        iterations: int = option(40, "Adam steps", ge=1, le=100_000)
        rate: float = option(0.1, "Adam's step size, in units of the box (discrete: of logits)", gt=0)
        rescore: int = option(5, "discrete: steps between evaluations of the projected plan", ge=1)
        sharpness: float = option(2.0, "discrete: logit of the warm start, spread of the random ones", gt=0)

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Gradient.Config = validate(config, "gradient.")
        self.action = action

    def plan(self, imagine: Imagine, state: Any, cost: BoundCost, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (iterations + 1, B) lowest of the legal plans so far, evaluations
        (imagined steps per row), gradients (those of them that were differentiated)."""
        c = self.config
        with differentiable(state) as state:
            batch, device = batch_and_device(state)
            first = first_restart(warm, self.action, batch, c.horizon, device)  # (B, H, A)
            if self.action.discrete:
                logits = initial_logits(first, c.restarts, c.sharpness, rng)  # (B, R, H, A)
                return self._descend_relaxed(imagine, state, cost, logits)
            random = self.action.sample((c.restarts, c.horizon), rng).to(device)  # (R, H, A)
            return self._descend_in_box(imagine, state, cost, add_restarts(first, random))

    def _descend_in_box(self, imagine: Imagine, state: Any, cost: BoundCost, start: Float[Tensor, "B R H A"]) -> Plan:
        c = self.config
        descent = Descent(start, c.rate)
        best, lowest, trace = start, start.new_full(start.shape[:2], torch.inf), []
        for _ in range(c.iterations):
            costs = score(imagine, state, cost, descent.leaf)  # (B, R)
            with torch.no_grad():
                best, lowest = keep_better(best, lowest, descent.leaf, costs)
                trace.append(lowest.amin(1))
            descent.step(costs, self.action.project)
        with torch.no_grad():
            best, lowest = keep_better(best, lowest, descent.leaf, score(imagine, state, cost, descent.leaf))
            trace.append(lowest.amin(1))
        return self._best_restart(best, lowest, trace, rollouts=c.iterations + 1)

    def _descend_relaxed(self, imagine: Imagine, state: Any, cost: BoundCost, start: Float[Tensor, "B R H A"]) -> Plan:
        c = self.config
        descent = Descent(start, c.rate)
        best, lowest, trace = self.action.project(start), start.new_full(start.shape[:2], torch.inf), []
        rescored = 0
        for i in range(c.iterations + 1):
            if i % c.rescore == 0 or i == c.iterations:
                rescored += 1
                with torch.no_grad():
                    legal = self.action.project(descent.leaf)
                    best, lowest = keep_better(best, lowest, legal, score(imagine, state, cost, legal))
            trace.append(lowest.amin(1))
            if i < c.iterations:
                descent.step(score(imagine, state, cost, descent.leaf.softmax(-1)))
        return self._best_restart(best, lowest, trace, rollouts=c.iterations + rescored)

    def _best_restart(
        self, best: Float[Tensor, "B R H A"], lowest: Float[Tensor, "B R"], trace: list[Tensor], rollouts: int
    ) -> Plan:
        cost, index = lowest.min(1)
        steps = self.config.restarts * self.config.horizon  # imagined per row by one rollout
        counts = {"evaluations": rollouts * steps, "gradients": self.config.iterations * steps}
        return Plan(gather_rows(best, index[:, None])[:, 0], cost, {"cost": torch.stack(trace), **counts})
