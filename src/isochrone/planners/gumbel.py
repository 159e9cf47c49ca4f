"""Gumbel-softmax planning for discrete actions: imagine hard samples, pass the gradient as if they were soft.

Source: Jang et al. 2017, Maddison et al. 2017 (straight-through); docs/background.md, "Gradient planning".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.tensors import gather_rows
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import (
    BoundCost,
    Descent,
    batch_and_device,
    differentiable,
    first_restart,
    initial_logits,
    keep_better,
    score,
)


@register("planner", "gumbel")
class Gumbel:
    """`restarts` tables of logits descend by straight-through samples while the temperature falls from `hot` to `cold`.

    What is imagined is always a legal sequence. The cheapest sample of each restart and the mode of its logits are
    evaluated once more without any relaxation, and the best of them is returned.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "gumbel"
        horizon: int = option(12, "actions planned ahead", ge=1, le=10_000)
        restarts: int = option(8, "tables of logits: the warm start or uniform, the others random", ge=1, le=65_536)
        iterations: int = option(60, "Adam steps", ge=1, le=100_000)
        rate: float = option(0.2, "Adam's step size on the logits", gt=0)
        hot: float = option(1.0, "first temperature", gt=0)
        cold: float = option(0.1, "last temperature", gt=0)
        noise: float = option(1.0, "scale of the Gumbel noise at the start; it falls with the temperature", ge=0)
        sharpness: float = option(2.0, "logit of the warm start, spread of the random ones", gt=0)

        def check(self, path: str) -> None:
            """UserError where the temperature would rise."""
            if self.cold > self.hot:
                raise UserError(
                    f"{path}cold = {self.cold}: must be at most {path}hot = {self.hot}; the schedule cools down"
                )

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Gumbel.Config = validate(config, "gumbel.")
        self.action = action
        if not action.discrete:
            raise UserError("planner 'gumbel' needs discrete actions; these are continuous: choose cem or gradient")

    def plan(self, imagine: Imagine, state: Any, cost: BoundCost, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (iterations + 1, B) lowest so far, evaluations (imagined steps per
        row), gradients (those of them that were differentiated)."""
        c = self.config
        with differentiable(state) as state:
            batch, device = batch_and_device(state)
            first = first_restart(warm, self.action, batch, c.horizon, device)  # (B, H, A)
            descent = Descent(initial_logits(first, c.restarts, c.sharpness, rng), c.rate)
            with torch.no_grad():
                best = self.action.project(descent.leaf)  # (B, R, H, A)
            lowest, trace = best.new_full(best.shape[:2], torch.inf), []
            for i in range(c.iterations):
                temperature = c.hot * (c.cold / c.hot) ** (i / max(c.iterations - 1, 1))
                sample = self._sample(descent.leaf, temperature, rng)  # (B, R, H, A)
                costs = score(imagine, state, cost, sample)  # (B, R)
                with torch.no_grad():
                    best, lowest = keep_better(best, lowest, self.action.project(sample), costs)
                    trace.append(lowest.amin(1))
                descent.step(costs)
        with torch.no_grad():
            candidates = torch.cat([best, self.action.project(descent.leaf)], 1)  # (B, 2R, H, A)
            final, index = score(imagine, state, cost, candidates).min(1)
        trace.append(final)
        steps = c.iterations * c.restarts * c.horizon
        counts = {"evaluations": steps + 2 * c.restarts * c.horizon, "gradients": steps}
        return Plan(gather_rows(candidates, index[:, None])[:, 0], final, {"cost": torch.stack(trace), **counts})

    def _sample(
        self, logits: Float[Tensor, "B R H A"], temperature: float, rng: torch.Generator
    ) -> Float[Tensor, "B R H A"]:
        """One-hot samples with the gradient of the softmax at this temperature. Rows share the noise."""
        uniform = torch.rand(logits.shape[1:], generator=rng, device=rng.device).to(logits.device)
        gumbel = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()  # (R, H, A)
        noise = self.config.noise * temperature / self.config.hot * gumbel
        soft = ((logits + noise) / temperature).softmax(-1)
        hard = self.action.project(soft)
        return stop_gradient(hard - soft, "straight-through: value of the sample, gradient of the softmax") + soft
