"""The cross-entropy method: draw, keep the best, draw nearer to them.

A Gaussian proposes continuous actions, a categorical per step discrete ones.

Source: Rubinstein and Kroese 2004; kept elites, the scored mean and noise that lasts after iCEM, Pinneri et al. 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.proposal import start
from isochrone.planners.score import Bound, extent, pick, score
from isochrone.planners.warm import fitted


@register("planner", "cem")
class CEM:
    """`iterations` times `candidates` sequences of `horizon` actions; `elites` of them shape the next draw.

    In every iteration the mode of the proposal is one of the candidates, and the best sequence so far stays among the
    elites: the cost never rises and a warm start is never lost.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "cem"
        horizon: int = option(10, "actions planned ahead", ge=1)
        candidates: int = option(48, "sequences imagined per iteration", ge=2)
        iterations: int = option(3, "rounds of drawing", ge=1)
        elites: int = option(6, "best sequences that shape the next round", ge=1)
        momentum: float = option(0.1, "share of the old proposal that is kept", ge=0, lt=1)
        std: float = option(0.6, "first spread of continuous actions (the box is -1 to 1)", gt=0)
        floor: float = option(0.05, "least spread (continuous), or share spread evenly (discrete)", ge=0, le=1)
        trust: float = option(0.5, "probability that a discrete proposal puts on the warm start", ge=0, lt=1)
        repeat: float = option(1.0, "steps that a drawn action (or its noise) lasts on average", ge=1)
        returns: Literal["best", "mean"] = option("best", "best sequence seen, or the last proposal's mode")
        chunk: int | None = option(None, "sequences imagined at once over the whole batch (none: fit the device)", ge=1)

        def check(self, path: str) -> None:
            if self.elites > self.candidates:
                raise UserError(
                    f"{path}elites = {self.elites}: more than {path}candidates = {self.candidates}; lower it"
                )

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: CEM.Config = validate(config, "cem.")
        self.action = action

    @torch.no_grad()
    def plan(self, imagine: Imagine, state: Any, cost: Bound, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (iterations, B) best so far, evaluations per row (steps)."""
        c = self.config
        batch, device = extent(state)
        guess = fitted(warm, self.action, batch, c.horizon, device)  # (B, H, A)
        proposal = start(self.action, guess, (batch, c.horizon, self.action.size), c.std, c.trust, device)
        best, price, trace = None, None, []
        for _ in range(c.iterations):
            drawn = proposal.sample(c.candidates - 1, rng, c.repeat)
            pool = torch.cat([proposal.mode()[:, None], drawn], 1)  # (B, N, H, A)
            prices = score(imagine, state, cost, pool, c.chunk)  # (B, N)
            if best is not None and price is not None:
                pool, prices = torch.cat([pool, best[:, None]], 1), torch.cat([prices, price[:, None]], 1)
            low, index = prices.topk(c.elites, 1, largest=False)  # (B, E)
            elites = pick(pool, index)  # (B, E, H, A)
            best, price = elites[:, 0], low[:, 0]
            trace.append(price)
            proposal = proposal.toward(elites, c.momentum, c.floor)
        steps = c.iterations * c.candidates * c.horizon
        return self._answer(imagine, state, cost, best, price, proposal.mode(), trace, steps)

    def _answer(
        self,
        imagine: Imagine,
        state: Any,
        cost: Bound,
        best: Tensor | None,
        price: Tensor | None,
        mode: Tensor,
        trace: list[Tensor],
        steps: int,
    ) -> Plan:
        assert best is not None and price is not None  # iterations >= 1
        if self.config.returns == "mean":
            best, steps = mode, steps + self.config.horizon
            price = score(imagine, state, cost, best[:, None])[:, 0]
        return Plan(best, price, {"cost": torch.stack(trace), "evaluations": steps})
