"""Gradient planning: Adam from several starts, kept inside the action box; discrete actions relaxed by a softmax.

Source: spec/gradient-planning.md section 3; seeds/003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import Bound, Descent, best_of, differentiable, extent, fitted, pick, score


@register("planner", "gradient")
class Gradient:
    """`restarts` sequences descend side by side; the cheapest legal sequence seen on the way is returned.

    Continuous: the iterate is clamped to the box after each step, so each price paid is the price of a legal plan.
    Discrete: softmax(logits) is imagined, and every `rescore` steps its largest entries are priced as a real plan.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "gradient"
        horizon: int = option(12, "actions planned ahead", ge=1)
        restarts: int = option(8, "starts: the warm plan or rest, the others random", ge=1)
        iterations: int = option(40, "Adam steps", ge=1)
        rate: float = option(0.1, "Adam's step, in units of the box (discrete: of logits)", gt=0)
        rescore: int = option(5, "discrete: steps between prices of the projected plan", ge=1)
        sharpness: float = option(2.0, "discrete: logit of the warm start, spread of the random ones", gt=0)

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: Gradient.Config = validate(config, "gradient.")
        self.action = action

    def plan(self, imagine: Imagine, state: Any, cost: Bound, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (iterations + 1, B) best legal price so far, evaluations (imagined
        steps per row), gradients (those of them that were differentiated)."""
        with differentiable(state) as state:
            start = self._start(extent(state), warm, rng)  # (B, R, H, A)
            search = self._relaxed if self.action.discrete else self._box
            return search(imagine, state, cost, start)

    def _start(self, place: tuple[int, torch.device], warm: Plan | None, rng: torch.Generator) -> Tensor:
        c, (batch, device) = self.config, place
        shape = (c.restarts, c.horizon, self.action.size)
        guess = fitted(warm, self.action, batch, c.horizon, device)  # (B, H, A)
        if self.action.discrete:
            random = torch.randn(shape, generator=rng, device=rng.device).to(device) * c.sharpness
            first = torch.zeros(batch, *shape[1:], device=device) if guess is None else guess * c.sharpness
        else:
            random = self.action.sample(shape[:2], rng).to(device)
            first = torch.zeros(batch, *shape[1:], device=device) if guess is None else guess
        return torch.cat([first[:, None], random[1:].expand(batch, -1, -1, -1)], 1)

    def _box(self, imagine: Imagine, state: Any, cost: Bound, start: Tensor) -> Plan:
        c = self.config
        descent = Descent(start, c.rate)
        best, price, trace = start, start.new_full(start.shape[:2], torch.inf), []
        for _ in range(c.iterations):
            prices = score(imagine, state, cost, descent.leaf)  # (B, R)
            with torch.no_grad():
                best, price = best_of(best, price, descent.leaf, prices)
                trace.append(price.amin(1))
            descent.step(prices, self.action.project)
        with torch.no_grad():
            best, price = best_of(best, price, descent.leaf, score(imagine, state, cost, descent.leaf))
            trace.append(price.amin(1))
        return self._answer(best, price, trace, (c.iterations + 1) * c.restarts * c.horizon)

    def _relaxed(self, imagine: Imagine, state: Any, cost: Bound, start: Tensor) -> Plan:
        c = self.config
        descent = Descent(start, c.rate)
        best, price, trace = self.action.project(start), start.new_full(start.shape[:2], torch.inf), []
        checks = 0
        for i in range(c.iterations + 1):
            if i % c.rescore == 0 or i == c.iterations:
                checks += 1
                with torch.no_grad():
                    hard = self.action.project(descent.leaf)
                    best, price = best_of(best, price, hard, score(imagine, state, cost, hard))
            trace.append(price.amin(1))
            if i < c.iterations:
                descent.step(score(imagine, state, cost, descent.leaf.softmax(-1)))
        return self._answer(best, price, trace, (c.iterations + checks) * c.restarts * c.horizon)

    def _answer(self, best: Tensor, price: Tensor, trace: list[Tensor], steps: int) -> Plan:
        c = self.config
        low, index = price.min(1)
        counts = {"evaluations": steps, "gradients": c.iterations * c.restarts * c.horizon}
        return Plan(pick(best, index[:, None])[:, 0], low, {"cost": torch.stack(trace), **counts})
