"""The cross-entropy method: sample sequences, keep the best, sample closer to them.

A Gaussian proposes continuous actions, a categorical distribution per step discrete ones. The noise is sampled once and
shared by all rows of the batch: a row's plan does not depend on its neighbours, so planning a batch equals planning its
rows one by one with the same seed.

Source: Rubinstein and Kroese 2004; elites reused by the next iteration, the mean as a candidate and correlated noise
after iCEM, Pinneri et al. 2020.
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
from isochrone.core.tensors import gather_rows
from isochrone.core.types import ActionSpec, Plan, Struct
from isochrone.planners.common import BoundCost, batch_and_device, fit_warm_start, score


@register("planner", "cem")
class CEM:
    """`iterations` times `candidates` sequences of `horizon` actions; the best `elites` shape the next proposal.

    In every iteration the mode of the proposal is one of the candidates, and the best sequence so far stays among the
    elites: the cost never rises and a good warm start is never lost.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "cem"
        horizon: int = option(10, "actions planned ahead", ge=1, le=10_000)
        candidates: int = option(48, "sequences imagined per iteration", ge=2, le=1_048_576)
        iterations: int = option(3, "rounds of sampling", ge=1, le=100_000)
        elites: int = option(6, "best sequences that shape the next round", ge=1, le=1_048_576)
        momentum: float = option(0.1, "weight of the old proposal in the new one", ge=0, lt=1)
        std: float = option(0.6, "first spread of continuous actions (the box is -1 to 1)", gt=0)
        min_spread: float = option(
            0.05, "smallest standard deviation (continuous), or fraction spread uniformly (discrete)", ge=0, le=1
        )
        warm_start_prob: float = option(0.5, "probability of the warm start in a discrete proposal", ge=0, lt=1)
        hold_steps: float = option(1.0, "mean number of steps for which a sampled action (or its noise) lasts", ge=1)
        output: Literal["best", "mean"] = option("best", "best sequence so far, or the last proposal's mode")
        chunk: int | None = option(
            None, "sequences imagined together over the whole batch (none: fit the device)", ge=1
        )

        def check(self, path: str) -> None:
            """UserError where there would be more elites than candidates."""
            if self.elites > self.candidates:
                raise UserError(
                    f"{path}elites = {self.elites}: more than {path}candidates = {self.candidates}; lower it"
                )

    def __init__(self, config: Config, action: ActionSpec) -> None:
        self.config: CEM.Config = validate(config, "cem.")
        self.action = action

    @torch.no_grad()
    def plan(self, imagine: Imagine, state: Any, cost: BoundCost, warm: Plan | None, rng: torch.Generator) -> Plan:
        """Plan(actions[B,H,A], cost[B]); trace: cost (iterations, B) lowest so far, evaluations (imagined steps per
        row)."""
        c = self.config
        batch, device = batch_and_device(state)
        guess = fit_warm_start(warm, self.action, batch, c.horizon, device)  # (B, H, A)
        proposal = self._proposal(guess, (batch, c.horizon, self.action.size), device)
        best = proposal.mode()[:, None][:, :0]  # (B, 0, H, A): no sequence yet
        lowest = best.new_zeros(batch, 0)
        trace, steps = [], c.iterations * c.candidates * c.horizon
        for _ in range(c.iterations):
            samples = proposal.sample(c.candidates - 1, rng, c.hold_steps)
            candidates = torch.cat([proposal.mode()[:, None], samples], 1)  # (B, N, H, A)
            costs = score(imagine, state, cost, candidates, c.chunk)  # (B, N)
            candidates, costs = torch.cat([candidates, best], 1), torch.cat([costs, lowest], 1)
            elite_costs, index = costs.topk(c.elites, 1, largest=False)  # (B, E)
            elites = gather_rows(candidates, index)  # (B, E, H, A)
            best, lowest = elites[:, :1], elite_costs[:, :1]
            trace.append(lowest[:, 0])
            proposal = proposal.toward(elites, c.momentum, c.min_spread)
        if c.output == "mean":
            best, steps = proposal.mode()[:, None], steps + c.horizon
            lowest = score(imagine, state, cost, best)
        return Plan(best[:, 0], lowest[:, 0], {"cost": torch.stack(trace), "evaluations": steps})

    def _proposal(
        self, guess: Float[Tensor, "B H A"] | None, shape: tuple[int, int, int], device: torch.device
    ) -> GaussianProposal | CategoricalProposal:
        """The first proposal, around the warm start if there is one."""
        if self.action.discrete:
            return CategoricalProposal.around(guess, shape, self.config.warm_start_prob, device)
        return GaussianProposal.around(guess, shape, self.config.std, device)


@dataclass(frozen=True)
class GaussianProposal(Struct):
    """Independent normal distributions per step and dimension, clamped to the box [-1, 1]."""

    mean: Float[Tensor, "B H A"]
    std: Float[Tensor, "B H A"]

    @classmethod
    def around(
        cls, guess: Float[Tensor, "B H A"] | None, shape: tuple[int, int, int], std: float, device: torch.device
    ) -> Self:
        """Centred on the guess, else on zero."""
        mean = torch.zeros(shape, device=device) if guess is None else guess
        return cls(mean, torch.full(shape, std, device=device))

    def sample(self, count: int, rng: torch.Generator, hold_steps: float = 1.0) -> Float[Tensor, "B N H A"]:
        noise = torch.randn(count, *self.mean.shape[1:], generator=rng, device=rng.device).to(self.mean.device)
        noise = repeat_actions(noise, hold_steps, rng)
        return (self.mean[:, None] + self.std[:, None] * noise).clamp(-1, 1)  # (B, N, H, A)

    def mode(self) -> Float[Tensor, "B H A"]:
        return self.mean

    def toward(self, elites: Float[Tensor, "B E H A"], momentum: float, min_spread: float) -> Self:
        """Mean and standard deviation of the elites, mixed with `momentum` of the old; at least `min_spread` wide."""
        mean = elites.mean(1).lerp(self.mean, momentum)
        std = elites.std(1, correction=0).lerp(self.std, momentum).clamp(min=min_spread)
        return self.replace(mean=mean, std=std)


@dataclass(frozen=True)
class CategoricalProposal(Struct):
    """An independent choice per step; samples and mode are one-hot."""

    probs: Float[Tensor, "B H A"]

    @classmethod
    def around(
        cls, guess: Float[Tensor, "B H A"] | None, shape: tuple[int, int, int], prob: float, device: torch.device
    ) -> Self:
        """Uniform; with a guess, `prob` of the probability goes to it first."""
        uniform = torch.full(shape, 1 / shape[-1], device=device)
        return cls(uniform if guess is None else uniform.lerp(guess.to(uniform.dtype), prob))

    def sample(self, count: int, rng: torch.Generator, hold_steps: float = 1.0) -> Float[Tensor, "B N H A"]:
        _, horizon, size = self.probs.shape
        level = torch.rand(count, horizon, 1, generator=rng, device=rng.device).to(self.probs.device)  # (N, H, 1)
        level = repeat_actions(level, hold_steps, rng)
        edges = self.probs.cumsum(-1)[:, None, :, :-1]  # (B, 1, H, A-1): a level above the last edge is the last action
        index = (level >= edges).sum(-1)  # (B, N, H)
        return torch.nn.functional.one_hot(index, size).to(self.probs.dtype)

    def mode(self) -> Float[Tensor, "B H A"]:
        return torch.nn.functional.one_hot(self.probs.argmax(-1), self.probs.shape[-1]).to(self.probs.dtype)

    def toward(self, elites: Float[Tensor, "B E H A"], momentum: float, min_spread: float) -> Self:
        """Frequencies of the elites, mixed with `momentum` of the old; every action keeps at least min_spread / A."""
        probs = elites.mean(1).lerp(self.probs, momentum)
        return self.replace(probs=probs.lerp(torch.full_like(probs, 1 / probs.shape[-1]), min_spread))


def repeat_actions(fresh: Float[Tensor, "N H A"], hold_steps: float, rng: torch.Generator) -> Float[Tensor, "N H A"]:
    """Samples that last `hold_steps` steps on average (1: no change); each single step is distributed as before.

    Sequences that change at every step rarely get far: after n steps a random walk that keeps its direction for k steps
    is about sqrt(n k) away.
    """
    if hold_steps == 1:
        return fresh
    turn = torch.rand(fresh.shape[:2], generator=rng, device=rng.device).to(fresh.device) < 1 / hold_steps  # (N, H)
    steps = torch.arange(fresh.shape[1], device=fresh.device)
    source = torch.where(turn, steps, 0).cummax(1).values  # (N, H) the step whose sample is repeated here
    return fresh.gather(1, source[..., None].expand_as(fresh))
