"""Latent distributions: a diagonal Gaussian, groups of categoricals, and a point. The caller draws the noise.

A *family* (`Gaussian`, `Categorical`, `Point`) knows sizes and turns raw network outputs into samples; a *belief*
(`Normal`, `OneHot`, `Mean`) holds the parameters of many such distributions and knows KL and entropy. Inside a loop
over time only `family.sample(raw, noise)` runs; beliefs are made afterwards from all rows at once.

symlog, symexp and two-hot targets: numbers of any size as a classification (Hafner et al. 2023, eq. 1, 8 and 9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Struct

LOG_2PI = math.log(2 * math.pi)


# --- beliefs


@dataclass(frozen=True)
class Normal(Struct):
    """Independent normals over the last dimension."""

    mean: Float[Tensor, "*B S"]
    std: Float[Tensor, "*B S"]

    def kl(self, other: Normal) -> Float[Tensor, "*B S"]:
        """KL(self || other) in nats, per dimension; sum over the last one for the whole."""
        ratio = (self.std / other.std).square()
        apart = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + apart - 1 - ratio.log())

    def standard(self) -> Normal:
        """N(0, I) of the same shape: the fixed global prior of PlaNet's first version."""
        return Normal(torch.zeros_like(self.mean), torch.ones_like(self.std))

    def entropy(self) -> Float[Tensor, "*B S"]:
        """Nats per dimension."""
        return self.std.log() + 0.5 * (1 + LOG_2PI)

    def log_prob(self, x: Float[Tensor, "*B S"]) -> Float[Tensor, "*B S"]:
        """Log density per dimension."""
        return -0.5 * (((x - self.mean) / self.std).square() + LOG_2PI) - self.std.log()

    def mode(self) -> Float[Tensor, "*B S"]:
        return self.mean


@dataclass(frozen=True)
class OneHot(Struct):
    """Independent categoricals: S groups of K classes. `logits` are log-probabilities, unimix already in them."""

    logits: Float[Tensor, "*B S K"]

    def kl(self, other: OneHot) -> Float[Tensor, "*B S"]:
        """KL(self || other) in nats, per group."""
        return (self.logits.exp() * (self.logits - other.logits)).sum(-1)

    def standard(self) -> OneHot:
        """Even odds in every group."""
        return OneHot(torch.full_like(self.logits, -math.log(self.logits.shape[-1])))

    def entropy(self) -> Float[Tensor, "*B S"]:
        """Nats per group."""
        return -(self.logits.exp() * self.logits).sum(-1)

    def log_prob(self, x: Float[Tensor, "*B F"]) -> Float[Tensor, "*B S"]:
        """Log probability per group of one-hot x, flat as samples are (F = S K)."""
        return (x.unflatten(-1, self.logits.shape[-2:]) * self.logits).sum(-1)

    def mode(self) -> Float[Tensor, "*B F"]:
        """One-hot of the likeliest class, groups flattened."""
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype).flatten(-2)


@dataclass(frozen=True)
class Mean(Struct):
    """No chance: one point. Its "KL" is that of unit-variance normals around the points, half the squared distance."""

    mean: Float[Tensor, "*B S"]

    def kl(self, other: Mean) -> Float[Tensor, "*B S"]:
        return 0.5 * (self.mean - other.mean).square()

    def standard(self) -> Mean:
        return Mean(torch.zeros_like(self.mean))

    def entropy(self) -> Float[Tensor, "*B S"]:
        """Of the unit-variance normal that `kl` pretends: a constant."""
        return torch.full_like(self.mean, 0.5 * (1 + LOG_2PI))

    def mode(self) -> Float[Tensor, "*B S"]:
        return self.mean


# --- families


@dataclass(frozen=True)
class Gaussian:
    """S-dimensional diagonal normal; std = softplus(raw) + `floor` (PlaNet: 0.1)."""

    size: int
    floor: float = 0.1

    @property
    def raw(self) -> int:
        """Network outputs that it takes."""
        return 2 * self.size

    @property
    def flat(self) -> int:
        """Numbers in a sample."""
        return self.size

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> Float[Tensor, "*B S"]:
        """Standard normal noise for samples of this leading shape, of `like`'s dtype and on its device."""
        return torch.randn(*shape, self.size, generator=rng, device=rng.device, dtype=like.dtype).to(like.device)

    def sample(self, raw: Float[Tensor, "*B R"], noise: Float[Tensor, "*B S"] | None) -> Float[Tensor, "*B S"]:
        """mean + std * noise; the mean without noise."""
        mean, spread = raw.chunk(2, -1)
        return mean if noise is None else torch.addcmul(mean, F.softplus(spread) + self.floor, noise)

    def belief(self, raw: Float[Tensor, "*B R"]) -> Normal:
        mean, spread = raw.chunk(2, -1)
        return Normal(mean, F.softplus(spread) + self.floor)


@dataclass(frozen=True)
class Categorical:
    """S groups of K classes of probability (1 - unimix) softmax(raw) + unimix / K in sampling, KL and entropy alike.

    Samples are exactly one-hot forward; backward the gradient goes to the probabilities (straight-through).
    """

    groups: int
    classes: int
    unimix: float = 0.01

    @property
    def raw(self) -> int:
        return self.groups * self.classes

    @property
    def flat(self) -> int:
        return self.groups * self.classes

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> Float[Tensor, "*B S K"]:
        """Reciprocals of exponential waits: the class of largest probability * noise wins (Gumbel-max, unlogged)."""
        kinds = {"device": rng.device, "dtype": like.dtype}
        level = torch.rand(*shape, self.groups, self.classes, generator=rng, **kinds)  # [0, 1): a wait is never 0
        return level.log_().neg_().reciprocal_().to(like.device)  # `exponential_` takes 5 times as long

    def sample(self, raw: Float[Tensor, "*B F"], noise: Float[Tensor, "*B S K"] | None) -> Float[Tensor, "*B F"]:
        """One-hot samples, groups flattened; the mode without noise."""
        logits = raw.unflatten(-1, (self.groups, self.classes))
        # no node of our own where Dynamo traces: on torch 2.11 a compiled SSM with classes was 3e-2 off (2.13: 1e-6);
        # plain operations are fused there anyway
        one_node = not torch.compiler.is_compiling()
        hot: Any = (StraightThrough.apply if one_node else straight_through)(logits, noise, self.unimix)
        return hot.flatten(-2)

    def belief(self, raw: Float[Tensor, "*B F"]) -> OneHot:
        logits = F.log_softmax(raw.unflatten(-1, (self.groups, self.classes)), -1)
        if self.unimix:
            even = torch.full_like(logits, math.log(self.unimix) - math.log(self.classes))  # no underflow
            logits = torch.logaddexp(logits + math.log1p(-self.unimix), even)
        return OneHot(logits)


@dataclass(frozen=True)
class Point:
    """S numbers without chance."""

    size: int

    @property
    def raw(self) -> int:
        return self.size

    @property
    def flat(self) -> int:
        return self.size

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> None:
        """Nothing to draw."""
        return None

    def sample(self, raw: Float[Tensor, "*B S"], noise: None) -> Float[Tensor, "*B S"]:
        return raw

    def belief(self, raw: Float[Tensor, "*B S"]) -> Mean:
        return Mean(raw)


def straight_through(logits: Tensor, noise: Tensor | None, unimix: float) -> Tensor:
    """What `StraightThrough` does, in plain operations."""
    odds = _odds(logits.softmax(-1), unimix)
    return _drawn(odds, noise) + (odds - stop_gradient(odds, "a drawn class pulls as its probability would"))


def _odds(probs: Tensor, unimix: float) -> Tensor:
    return torch.add(unimix / probs.shape[-1], probs, alpha=1 - unimix) if unimix else probs


def _drawn(odds: Tensor, noise: Tensor | None) -> Tensor:
    """One-hot of the class of largest odds * noise; of the mode without noise."""
    index = (odds if noise is None else odds * noise).argmax(-1, keepdim=True)
    return torch.zeros_like(odds).scatter_(-1, index, 1)


class StraightThrough(torch.autograd.Function):
    """softmax, unimix, draw, one-hot in one node: a loop over time pays per node, not per number."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor | None, unimix: float) -> Tensor:
        probs = logits.softmax(-1)
        ctx.save_for_backward(probs)
        ctx.unimix = unimix
        return _drawn(_odds(probs, unimix), noise)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (probs,) = ctx.saved_tensors
        pull = grads[0] * probs
        return (pull - probs * pull.sum(-1, keepdim=True)).mul_(1 - ctx.unimix), None, None


def symlog(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The inverse of symlog: sign(x) (e^|x| - 1)."""
    return x.sign() * x.abs().expm1()


def bins(count: int = 255, limit: float = 20.0, spaced: str = "symexp", **kinds) -> Float[Tensor, "K"]:
    """Places of the classes, exactly antisymmetric: even in symlog space, given there ('symlog') or in x ('symexp')."""
    if count < 3 or count % 2 == 0:
        raise ValueError(f"two-hot: {count} bins; an odd number of at least 3 has one at zero")
    half = torch.linspace(0, limit, count // 2 + 1, **kinds)
    half = symexp(half) if spaced == "symexp" else half
    return torch.cat([-half[1:].flip(0), half])


def two_hot(x: Float[Tensor, "*B"], places: Float[Tensor, "K"]) -> Float[Tensor, "*B K"]:
    """Weights on the two places around x that average to x; what lies outside goes to the outermost place."""
    x = x.clamp(places[0], places[-1])
    above = torch.searchsorted(places, x.contiguous()).clamp(1, len(places) - 1)
    low, high = places[above - 1], places[above]
    share = ((x - low) / (high - low)).clamp(0, 1)  # (*B)
    weights = torch.zeros(*x.shape, len(places), device=x.device, dtype=places.dtype)
    weights.scatter_(-1, (above - 1)[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, above[..., None], share[..., None])


def two_hot_nll(
    logits: Float[Tensor, "*B K"], x: Float[Tensor, "*B"], places: Float[Tensor, "K"]
) -> Float[Tensor, "*B"]:
    """Cross-entropy of the two-hot target, nats."""
    return -(two_hot(x, places) * logits.log_softmax(-1)).sum(-1)


def two_hot_mean(logits: Float[Tensor, "*B K"], places: Float[Tensor, "K"]) -> Float[Tensor, "*B"]:
    """Expected place. Mirrored places are paired first, so that even odds give exactly 0 however sums are fused."""
    probs, half = logits.softmax(-1), len(places) // 2
    right, left = probs[..., half + 1 :], probs[..., :half].flip(-1)
    return ((right - left) * places[half + 1 :]).sum(-1)
