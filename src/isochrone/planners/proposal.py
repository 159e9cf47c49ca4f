"""Distributions over action sequences that a sampling planner narrows down: a box Gaussian and a categorical.

The noise is drawn once and shared by all rows of the batch: a row's plan does not depend on its neighbours, so planning
a batch equals planning its rows one by one with the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.types import ActionSpec, Struct


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
