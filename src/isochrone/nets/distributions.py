"""Latent distributions (diagonal Gaussian, groups of categoricals, deterministic), and two-hot targets.

A *family* (`Gaussian`, `Categorical`, `Deterministic`) has sizes and turns raw network outputs and noise, which the
caller makes with `family.noise`, into samples. A *distribution* (`Normal`, `OneHot`, `PointMass`) holds the parameters
of many rows and computes KL and entropy. Inside a loop over time only `family.sample(raw, noise)` runs;
`family.dist(raw)` is called afterwards on all rows at once.

symlog, symexp and two-hot targets: regression by classification at any scale (Hafner et al. 2023, eq. 1, 8 and 9).
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


# --- distributions


@dataclass(frozen=True)
class Normal(Struct):
    """Independent normals over the last dimension."""

    mean: Float[Tensor, "*B S"]
    std: Float[Tensor, "*B S"]

    def kl(self, other: Normal) -> Float[Tensor, "*B S"]:
        """KL(self || other) in nats, per dimension; sum over the last one for the total."""
        ratio = (self.std / other.std).square()
        shift = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + shift - 1 - ratio.log())

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
        """Uniform in every group."""
        return OneHot(torch.full_like(self.logits, -math.log(self.logits.shape[-1])))

    def entropy(self) -> Float[Tensor, "*B S"]:
        """Nats per group."""
        return -(self.logits.exp() * self.logits).sum(-1)

    def log_prob(self, x: Float[Tensor, "*B F"]) -> Float[Tensor, "*B S"]:
        """Log probability per group of one-hot x, flat as samples are (F = S K)."""
        return (x.unflatten(-1, self.logits.shape[-2:]) * self.logits).sum(-1)

    def mode(self) -> Float[Tensor, "*B F"]:
        """One-hot of the most probable class, groups flattened."""
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype).flatten(-2)


@dataclass(frozen=True)
class PointMass(Struct):
    """A deterministic latent. Its "KL" is that of unit-variance normals around the points: half the squared distance.

    So the losses of the stochastic models also train the deterministic one.
    """

    mean: Float[Tensor, "*B S"]

    def kl(self, other: PointMass) -> Float[Tensor, "*B S"]:
        """Half the squared difference, per dimension."""
        return 0.5 * (self.mean - other.mean).square()

    def standard(self) -> PointMass:
        """The origin."""
        return PointMass(torch.zeros_like(self.mean))

    def entropy(self) -> Float[Tensor, "*B S"]:
        """That of the unit-variance normal that `kl` assumes: a constant."""
        return torch.full_like(self.mean, 0.5 * (1 + LOG_2PI))

    def mode(self) -> Float[Tensor, "*B S"]:
        return self.mean


# --- families


@dataclass(frozen=True)
class Gaussian:
    """S-dimensional diagonal normal; std = softplus(raw) + `min_std` (PlaNet: 0.1)."""

    size: int
    min_std: float = 0.1

    @property
    def param_size(self) -> int:
        """Raw network outputs per distribution."""
        return 2 * self.size

    @property
    def sample_size(self) -> int:
        """Numbers per sample."""
        return self.size

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> Float[Tensor, "*B S"]:
        """Standard normal noise for samples of this leading shape, of `like`'s dtype and on its device."""
        return torch.randn(*shape, self.size, generator=rng, device=rng.device, dtype=like.dtype).to(like.device)

    def sample(self, raw: Float[Tensor, "*B R"], noise: Float[Tensor, "*B S"] | None) -> Float[Tensor, "*B S"]:
        """mean + std * noise; the mean without noise."""
        mean, spread = raw.chunk(2, -1)
        return mean if noise is None else torch.addcmul(mean, F.softplus(spread) + self.min_std, noise)

    def dist(self, raw: Float[Tensor, "*B R"]) -> Normal:
        mean, spread = raw.chunk(2, -1)
        return Normal(mean, F.softplus(spread) + self.min_std)


@dataclass(frozen=True)
class Categorical:
    """S groups of K classes of probability (1 - unimix) softmax(raw) + unimix / K in sampling, KL and entropy alike.

    Samples are exactly one-hot forward; backward the gradient goes to the probabilities (straight-through).
    """

    groups: int
    classes: int
    unimix: float = 0.01

    @property
    def param_size(self) -> int:
        return self.groups * self.classes

    @property
    def sample_size(self) -> int:
        return self.groups * self.classes

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> Float[Tensor, "*B S K"]:
        """1 / Exp(1) noise: the sample is the argmax of probability * noise (Gumbel-max in probability space)."""
        kinds = {"device": rng.device, "dtype": like.dtype}
        level = torch.rand(*shape, self.groups, self.classes, generator=rng, **kinds)  # [0, 1): -log is never 0
        return level.log_().neg_().reciprocal_().to(like.device)  # 5 times faster than `exponential_`

    def sample(self, raw: Float[Tensor, "*B F"], noise: Float[Tensor, "*B S K"] | None) -> Float[Tensor, "*B F"]:
        """One-hot samples, groups flattened; the mode without noise."""
        logits = raw.unflatten(-1, (self.groups, self.classes))
        # plain operations under torch.compile: it fuses them, and with the autograd function a compiled SSM with
        # classes was wrong by 3e-2 on torch 2.11
        compiling = torch.compiler.is_compiling()
        one_hot: Any = (straight_through if compiling else StraightThrough.apply)(logits, noise, self.unimix)
        return one_hot.flatten(-2)

    def dist(self, raw: Float[Tensor, "*B F"]) -> OneHot:
        logits = F.log_softmax(raw.unflatten(-1, (self.groups, self.classes)), -1)
        if self.unimix:
            uniform = torch.full_like(logits, math.log(self.unimix) - math.log(self.classes))  # no underflow
            logits = torch.logaddexp(logits + math.log1p(-self.unimix), uniform)
        return OneHot(logits)


@dataclass(frozen=True)
class Deterministic:
    """S numbers that are the raw outputs themselves; nothing is sampled."""

    size: int

    @property
    def param_size(self) -> int:
        return self.size

    @property
    def sample_size(self) -> int:
        return self.size

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> None:
        """None; the generator is not used."""
        return None

    def sample(self, raw: Float[Tensor, "*B S"], noise: None) -> Float[Tensor, "*B S"]:
        return raw

    def dist(self, raw: Float[Tensor, "*B S"]) -> PointMass:
        return PointMass(raw)


def straight_through(logits: Tensor, noise: Tensor | None, unimix: float) -> Tensor:
    """What `StraightThrough` computes, in plain operations."""
    probs = _mix(logits.softmax(-1), unimix)
    return _one_hot(probs, noise) + (probs - stop_gradient(probs, "straight-through: the gradient of the probability"))


def _mix(probs: Tensor, unimix: float) -> Tensor:
    return torch.add(unimix / probs.shape[-1], probs, alpha=1 - unimix) if unimix else probs


def _one_hot(probs: Tensor, noise: Tensor | None) -> Tensor:
    """One-hot of the class of largest probs * noise; of the mode without noise."""
    index = (probs if noise is None else probs * noise).argmax(-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, index, 1)


class StraightThrough(torch.autograd.Function):
    """softmax, unimix, sample and one-hot as one autograd node instead of seven.

    bench/custom_autograd.py finds no gain on a CPU. It stays because its backward rounds differently from the plain
    operations, and the committed results were trained with it.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor | None, unimix: float) -> Tensor:
        probs = logits.softmax(-1)
        ctx.save_for_backward(probs)
        ctx.unimix = unimix
        return _one_hot(_mix(probs, unimix), noise)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (probs,) = ctx.saved_tensors
        scaled = grads[0] * probs
        return (scaled - probs * scaled.sum(-1, keepdim=True)).mul_(1 - ctx.unimix), None, None


def symlog(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The inverse of symlog: sign(x) (e^|x| - 1)."""
    return x.sign() * x.abs().expm1()


def bins(count: int = 255, limit: float = 20.0, spaced: str = "symexp", **kwargs) -> Float[Tensor, "K"]:
    """Values of the classes, exactly antisymmetric, evenly spaced in symlog space.

    They are given there (spaced='symlog') or mapped back to x (spaced='symexp'). ValueError unless `count` is odd.
    """
    if count < 3 or count % 2 == 0:
        raise ValueError(f"two-hot: {count} bins; an odd number of at least 3 has one at zero")
    half = torch.linspace(0, limit, count // 2 + 1, **kwargs)
    half = symexp(half) if spaced == "symexp" else half
    return torch.cat([-half[1:].flip(0), half])


def two_hot(x: Float[Tensor, "*B"], values: Float[Tensor, "K"]) -> Float[Tensor, "*B K"]:
    """Weights on the two class values around x whose average is x; x is clamped to the outermost values."""
    x = x.clamp(values[0], values[-1])
    above = torch.searchsorted(values, x.contiguous()).clamp(1, len(values) - 1)
    low, high = values[above - 1], values[above]
    share = ((x - low) / (high - low)).clamp(0, 1)  # (*B)
    weights = torch.zeros(*x.shape, len(values), device=x.device, dtype=values.dtype)
    weights.scatter_(-1, (above - 1)[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, above[..., None], share[..., None])


def two_hot_nll(
    logits: Float[Tensor, "*B K"], x: Float[Tensor, "*B"], values: Float[Tensor, "K"]
) -> Float[Tensor, "*B"]:
    """Cross-entropy of the two-hot target, nats."""
    return -(two_hot(x, values) * logits.log_softmax(-1)).sum(-1)


def two_hot_mean(logits: Float[Tensor, "*B K"], values: Float[Tensor, "K"]) -> Float[Tensor, "*B"]:
    """Expected value. Opposite values are paired first, so that uniform classes give exactly 0 in any order of sums."""
    probs, half = logits.softmax(-1), len(values) // 2
    right, left = probs[..., half + 1 :], probs[..., :half].flip(-1)
    return ((right - left) * values[half + 1 :]).sum(-1)
