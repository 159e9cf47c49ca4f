"""Distributions over action sequences that a sampling planner narrows down: a box Gaussian and a categorical.

The noise is drawn once and shared by all rows of the batch: a row's plan does not depend on its neighbours, so planning
a batch equals planning its rows one by one with the same seed.

The cross-entropy method: draw, keep the best, draw nearer to them.

A Gaussian proposes continuous actions, a categorical per step discrete ones.

Source: Rubinstein and Kroese 2004; kept elites, the scored mean and noise that lasts after iCEM, Pinneri et al. 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.protocols import Imagine
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Plan, Struct
from isochrone.planners.common import Bound, extent, fitted, pick, score


def lasting(fresh: Float[Tensor, "N H A"], repeat: float, rng: torch.Generator) -> Float[Tensor, "N H A"]:
    """Draws that each last `repeat` steps on average (1: none does); every single step is distributed as before.

    Sequences that turn at every step rarely get anywhere: n steps of a walk that keeps on for k go about sqrt(n k) far.
    """
    if repeat == 1:
        return fresh
    turn = torch.rand(fresh.shape[:2], generator=rng, device=rng.device).to(fresh.device) < 1 / repeat  # (N, H)
    steps = torch.arange(fresh.shape[1], device=fresh.device)
    begun = torch.where(turn, steps, 0).cummax(1).values  # (N, H) the step at which the draw in force was made
    return fresh.gather(1, begun[..., None].expand_as(fresh))


@dataclass(frozen=True)
class Gaussian(Struct):
    """Independent normals per step and dimension, cut to the box [-1, 1]."""

    mean: Float[Tensor, "B H A"]
    std: Float[Tensor, "B H A"]

    @classmethod
    def around(cls, guess: Tensor | None, shape: tuple[int, int, int], std: float, device: torch.device) -> Self:
        """Centred on the guess, else on zero."""
        mean = torch.zeros(shape, device=device) if guess is None else guess
        return cls(mean, torch.full(shape, std, device=device))

    def sample(self, count: int, rng: torch.Generator, repeat: float = 1.0) -> Float[Tensor, "B N H A"]:
        noise = torch.randn(count, *self.mean.shape[1:], generator=rng, device=rng.device).to(self.mean.device)
        noise = lasting(noise, repeat, rng)
        return (self.mean[:, None] + self.std[:, None] * noise).clamp(-1, 1)  # (B, N, H, A)

    def mode(self) -> Float[Tensor, "B H A"]:
        return self.mean

    def toward(self, elites: Float[Tensor, "B E H A"], momentum: float, floor: float) -> Self:
        """Move to the elites' mean and spread, keeping `momentum` of the old; the spread never falls below `floor`."""
        mean = elites.mean(1).lerp(self.mean, momentum)
        std = elites.std(1, correction=0).lerp(self.std, momentum).clamp(min=floor)
        return self.replace(mean=mean, std=std)


@dataclass(frozen=True)
class Categorical(Struct):
    """Independent choice per step; samples and mode are one-hot."""

    probs: Float[Tensor, "B H A"]

    @classmethod
    def around(cls, guess: Tensor | None, shape: tuple[int, int, int], trust: float, device: torch.device) -> Self:
        """Uniform, with the share `trust` of the probability on the guess."""
        even = torch.full(shape, 1 / shape[-1], device=device)
        return cls(even if guess is None else even.lerp(guess.to(even.dtype), trust))

    def sample(self, count: int, rng: torch.Generator, repeat: float = 1.0) -> Float[Tensor, "B N H A"]:
        _, horizon, size = self.probs.shape
        level = torch.rand(count, horizon, 1, generator=rng, device=rng.device).to(self.probs.device)  # (N, H, 1)
        level = lasting(level, repeat, rng)
        edges = self.probs.cumsum(-1)[:, None, :, :-1]  # (B, 1, H, A-1): a level above the last edge is the last action
        index = (level >= edges).sum(-1)  # (B, N, H)
        return torch.nn.functional.one_hot(index, size).to(self.probs.dtype)

    def mode(self) -> Float[Tensor, "B H A"]:
        return torch.nn.functional.one_hot(self.probs.argmax(-1), self.probs.shape[-1]).to(self.probs.dtype)

    def toward(self, elites: Float[Tensor, "B E H A"], momentum: float, floor: float) -> Self:
        """Move to the elites' frequencies, keeping `momentum` of the old, then give every action at least floor / A."""
        probs = elites.mean(1).lerp(self.probs, momentum)
        return self.replace(probs=probs.lerp(torch.full_like(probs, 1 / probs.shape[-1]), floor))


def start(
    action: ActionSpec,
    guess: Tensor | None,
    shape: tuple[int, int, int],
    std: float,
    trust: float,
    device: torch.device,
) -> Gaussian | Categorical:
    """The first proposal of an action kind."""
    if action.discrete:
        return Categorical.around(guess, shape, trust, device)
    return Gaussian.around(guess, shape, std, device)


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
