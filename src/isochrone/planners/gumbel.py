"""Gumbel-softmax planning for discrete actions: imagine hard draws, let the gradient pass as if they were soft.

Source: Jang et al. 2017, Maddison et al. 2017 (straight-through); the schedule of seeds/003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import Bound, Descent, best_of, differentiable, extent, fitted, pick, score


@register("planner", "gumbel")
class Gumbel:
    """`restarts` tables of logits descend by straight-through draws while the temperature falls from `hot` to `cold`.

    What is imagined is always a legal sequence. The cheapest draw of each restart and the mode of its logits are priced
    once more without any relaxation, and the best of them is returned.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "gumbel"
        horizon: int = option(12, "actions planned ahead", ge=1)
        restarts: int = option(8, "tables of logits: the warm plan or even, the others random", ge=1)
        iterations: int = option(60, "Adam steps", ge=1)
        rate: float = option(0.2, "Adam's step on the logits", gt=0)
        hot: float = option(1.0, "first temperature", gt=0)
        cold: float = option(0.1, "last temperature", gt=0)
        noise: float = option(1.0, "scale of the Gumbel noise at the start; it falls with the temperature", ge=0)
        sharpness: float = option(2.0, "logit of the warm start, spread of the random ones", gt=0)

        def check(self, path: str) -> None:
            if self.cold > self.hot:
                raise UserError(
                    f"{path}cold = {self.cold}: must be at most {path}hot = {self.hot}; the schedule cools down"
                )

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Gumbel.Config = validate(config, "gumbel.")
        self.action = action
        if not action.discrete:
            raise UserError("planner 'gumbel' needs discrete actions; these are continuous: choose cem or gradient")

    def plan(self, imagine: Imagine, state: Any, cost: Bound, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (iterations + 1, B) best price so far, evaluations (imagined steps
        per row), gradients (those of them that were differentiated)."""
        c = self.config
        with differentiable(state) as state:
            start = self._start(extent(state), warm, rng)  # (B, R, H, A)
            descent = Descent(start, c.rate)
            best, price, trace = self.action.project(start), start.new_full(start.shape[:2], torch.inf), []
            for i in range(c.iterations):
                heat = c.hot * (c.cold / c.hot) ** (i / max(c.iterations - 1, 1))
                draw = self._draw(descent.leaf, heat, rng)  # (B, R, H, A)
                prices = score(imagine, state, cost, draw)  # (B, R)
                with torch.no_grad():
                    best, price = best_of(best, price, self.action.project(draw), prices)
                    trace.append(price.amin(1))
                descent.step(prices)
        with torch.no_grad():
            pool = torch.cat([best, self.action.project(descent.leaf)], 1)  # (B, 2R, H, A)
            low, index = score(imagine, state, cost, pool).min(1)
        trace.append(low)
        steps = c.iterations * c.restarts * c.horizon
        counts = {"evaluations": steps + 2 * c.restarts * c.horizon, "gradients": steps}
        return Plan(pick(pool, index[:, None])[:, 0], low, {"cost": torch.stack(trace), **counts})

    def _start(self, place: tuple[int, torch.device], warm: Plan | None, rng: torch.Generator) -> Tensor:
        c, (batch, device) = self.config, place
        shape = (c.restarts, c.horizon, self.action.size)
        guess = fitted(warm, self.action, batch, c.horizon, device)  # (B, H, A)
        random = torch.randn(shape, generator=rng, device=rng.device).to(device) * c.sharpness
        first = torch.zeros(batch, *shape[1:], device=device) if guess is None else guess * c.sharpness
        return torch.cat([first[:, None], random[1:].expand(batch, -1, -1, -1)], 1)

    def _draw(self, logits: Tensor, heat: float, rng: torch.Generator) -> Tensor:
        """A one-hot draw with the gradient of the softmax at temperature `heat`. Rows share the noise."""
        level = torch.rand(logits.shape[1:], generator=rng, device=rng.device).to(logits.device)
        gumbel = -(-level.clamp(1e-9, 1 - 1e-7).log()).log()  # (R, H, A)
        soft = ((logits + self.config.noise * heat / self.config.hot * gumbel) / heat).softmax(-1)
        hard = self.action.project(soft)
        return stop_gradient(hard - soft, "straight-through: the value of the draw, the gradient of the softmax") + soft
