"""The ELBO of our own loop, sampling and losses, against the exact likelihood of linear-Gaussian systems. (float64)

Inside such a system every term of the ELBO is quadratic in the noise, so its expectation over the noise is the mean
over cubature points +-sqrt(n) e_i: what is compared here has no sampling error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from linearly import covariance
from torch import Tensor, nn
from torch import distributions as td

from isochrone.core import registry
from isochrone.core.types import ActionSpec, Batch, Spec, Struct
from isochrone.envs.linear import LinearConfig, LinearEnv, LinearGaussian
from isochrone.evals.metrics.likelihood import LOG_2PI, LinearFilter, bounds, conditionals, log_likelihood
from isochrone.models.statespace import SSM, SsmConfig
from isochrone.nets.distributions import Gaussian

pytestmark = pytest.mark.slow

T = 8
DOUBLE = {"dtype": torch.float64}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cubature(length: int, size: int) -> Tensor:
    """(T, 2 T S, S): points of which the mean of any quadratic is its expectation under N(0, I)."""
    n = length * size
    points = n**0.5 * torch.cat([torch.eye(n, **DOUBLE), -torch.eye(n, **DOUBLE)])
    return points.reshape(2 * n, length, size).transpose(0, 1)


@dataclass(frozen=True)
class Cubature(Gaussian):
    """Our diagonal Gaussian, its noise laid on cubature points."""

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> Tensor:
        points = cubature(shape[0], self.size)
        assert points.shape[1] == shape[1]
        return points


@dataclass(frozen=True)
class FullBelief(Struct):
    mean: Tensor
    chol: Tensor

    def kl(self, other: FullBelief) -> Tensor:
        ours, theirs = (td.MultivariateNormal(d.mean, scale_tril=d.chol) for d in (self, other))
        return td.kl_divergence(ours, theirs)[..., None]


@dataclass(frozen=True)
class Full:
    """A normal with any covariance, for systems whose conditionals are not diagonal."""

    size: int

    @property
    def sample_size(self) -> int:
        return self.size

    def noise(self, *shape: int, like: Tensor, rng: torch.Generator) -> Tensor:
        return cubature(shape[0], self.size)

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        belief = self.dist(raw)
        return belief.mean + (belief.chol @ noise[..., None])[..., 0]

    def dist(self, raw: Tensor) -> FullBelief:
        mean, flat = raw.split([self.size, self.size**2], -1)
        return FullBelief(mean, flat.unflatten(-1, (self.size, self.size)))


def spread_of(cov: Tensor, full: bool) -> Tensor:
    """The raw parameters of a covariance."""
    if full:
        return torch.linalg.cholesky(cov).flatten(-2)
    std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    return torch.log(torch.expm1(std - 0.01))  # inverse of softplus and min_std


class Prior(nn.Module):
    """The system's own transition: x = A s_{t-1} comes from the model's loop, so the mean is x."""

    def __init__(self, system: LinearGaussian, full: bool) -> None:
        super().__init__()
        self.register_buffer("spread", spread_of(system.q, full))
        self.head = nn.Linear(1, 1, **DOUBLE)  # the model asks it for its dtype

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.spread.expand(*x.shape[:-1], -1)], -1)  # type: ignore[operator]


class Plugged(nn.Module):
    """A posterior N(F_t s_{t-1} + d_t, V_t) given from outside; `precompute` returns its parameters for every row.

    It sees x = A s_{t-1}, hence F_t A^-1 x.
    """

    def __init__(self, system: LinearGaussian, f: Tensor, d: Tensor, v: Tensor, full: bool) -> None:
        super().__init__()
        self.maps = f @ torch.linalg.inv(system.a)  # (T, S, S)
        self.params = torch.cat([d, spread_of(v, full).expand(len(d), -1, -1)], -1)  # (B, T, R)
        self.at = 0

    def precompute(self, embed: Tensor) -> Tensor:
        self.at = 0
        return self.params.expand(len(embed), -1, -1)

    def forward(self, x: Tensor, params: Tensor) -> Tensor:
        size = x.shape[-1]
        mean = x @ self.maps[self.at].T + params[..., :size]
        self.at += 1
        return torch.cat([mean, params[..., size:]], -1)


def model_of(system: LinearGaussian, full: bool = False) -> SSM:
    """Our SSM with the system's own transition and emission."""
    size, obs_size = system.sizes
    config = SsmConfig(
        stoch=size,
        hidden=size,
        act="none",
        norm="none",
        prior_layers=0,
        head_layers=0,
        embed=obs_size,
        symlog=False,
        min_std=0.01,
    )
    model = SSM(config, Spec({"state": (obs_size,)}, ActionSpec("continuous", 1))).double()
    with torch.no_grad():
        model.dynamics.inputs.z.weight.copy_(system.a)
        model.decoder.parts["state"].head.weight.copy_(system.h)
        model.decoder.parts["state"].head.bias.zero_()
        model.encoder.parts["state"].head.weight.copy_(torch.eye(obs_size))
        model.encoder.parts["state"].head.bias.zero_()
    model.latent = Full(size) if full else Cubature(size, 0.01)
    model.prior = Prior(system, full)  # type: ignore[assignment]
    return model


def elbo(model: Any, obs: Tensor) -> float:
    """ELBO per step of one sequence (T, D), by the losses that train: -(vectors + kl), and the Gaussian's constant."""
    size, (length, width) = model.config.stoch, obs.shape
    count = 2 * length * size
    no = torch.zeros(count, length, dtype=torch.bool)
    batch = Batch({"state": obs.expand(count, -1, -1)}, torch.zeros(count, length, 1), torch.zeros(count, length), no, no, no)  # fmt: skip  # noqa: E501
    with torch.no_grad():
        roll = model.observe(batch, {"target", "vectors_hat", "posterior", "prior"}, rng(0))
        terms = [registry.get("loss", name)(model, roll).item() for name in ("vectors", "kl")]
    return -sum(terms) - 0.5 * width * LOG_2PI


SYSTEMS = [(seed, 1 + seed % 3, seed % 2 == 0) for seed in range(20)]


@pytest.mark.parametrize(("seed", "size", "diagonal"), SYSTEMS)
def test_the_exact_conditional_closes_the_gap_and_a_filter_does_not(seed: int, size: int, diagonal: bool) -> None:
    """20 random systems. Diagonal ones run on our own Gaussian, the others on a full covariance."""
    system = LinearGaussian.random(size, size + seed % 2, rng(seed), diagonal)
    _, obs = system.simulate(1, T, rng(100 + seed))
    exact = log_likelihood(system, obs).item() / T
    model = model_of(system, full=not diagonal)
    gaps = {}
    for ahead in (True, False):
        model.posterior = Plugged(system, *conditionals(system, obs, ahead), full=not diagonal)  # type: ignore[assignment]
        gaps[ahead] = exact - elbo(model, obs[0])
    assert abs(gaps[True]) < 1e-9
    assert gaps[False] > -1e-12
    print(f"filtering gap {gaps[False]:.4f} nats per step")


@pytest.mark.parametrize(("seed", "size", "diagonal"), SYSTEMS)
def test_the_elbo_is_never_above_the_likelihood(seed: int, size: int, diagonal: bool) -> None:
    """Random linear posteriors of our own network, constant spread: the cubature stays exact."""
    system = LinearGaussian.random(size, size + seed % 2, rng(seed), diagonal)
    _, obs = system.simulate(3, T, rng(200 + seed))
    exact = log_likelihood(system, obs) / T
    model = model_of(system)
    with torch.no_grad():
        for trial in range(3):
            for i, p in enumerate(model.posterior.parameters()):
                p.copy_(torch.randn(p.shape, generator=rng(trial + 10 * i), **DOUBLE) * 0.5)
            model.posterior.rest.head.weight[size:] = 0
            for row in range(3):
                assert elbo(model, obs[row]) < exact[row].item()


def test_the_filter_has_a_real_gap() -> None:
    """Where states are remembered and obs badly, what comes later matters: print the gap over all systems."""
    gaps = []
    for seed, size, diagonal in SYSTEMS:
        system = LinearGaussian.random(size, size + seed % 2, rng(seed), diagonal)
        _, obs = system.simulate(1, T, rng(100 + seed))
        model = model_of(system, full=not diagonal)
        model.posterior = Plugged(system, *conditionals(system, obs, False), full=not diagonal)  # type: ignore[assignment]
        gaps.append(log_likelihood(system, obs).item() / T - elbo(model, obs[0]))
    print(f"gap of p(s_t | s_t-1, o_t): {min(gaps):.4f} to {max(gaps):.4f}, mean {sum(gaps) / 20:.4f} nats per step")
    assert sum(gaps) / len(gaps) > 0.005


# --- the truth itself, checked in other ways


@pytest.mark.parametrize("seed", range(4))
def test_the_kalman_filter_is_the_joint_gaussian(seed: int) -> None:
    """All observations are one big normal; its covariance is written down directly."""
    system = LinearGaussian.random(2, 3, rng(seed))
    _, obs = system.simulate(5, T, rng(seed + 50))
    joint = td.MultivariateNormal(torch.zeros(3 * T, **DOUBLE), covariance(system, T))
    torch.testing.assert_close(log_likelihood(system, obs), joint.log_prob(obs.flatten(1)))


@pytest.mark.parametrize("seed", range(2))
def test_the_expected_elbo_of_a_filter_is_the_mean_over_sequences(seed: int) -> None:
    system = LinearGaussian.random(2, 2, rng(seed), diagonal=True)
    f, _, v = conditionals(system, torch.zeros(1, 1, 2, **DOUBLE), False)
    gain = v[0] @ system.h.T
    filter_ = LinearFilter(f[0], gain, torch.linalg.cholesky(v[0]))
    model = model_of(system)
    _, obs = system.simulate(400, T, rng(seed + 70))
    found = []
    for row in obs:
        model.posterior = Plugged(system, *conditionals(system, row[None], False), full=False)  # type: ignore[assignment]
        found.append(elbo(model, row))
    found = torch.tensor(found, **DOUBLE)
    error = found.std() / 20
    assert abs(found.mean() - filter_.elbo(system, T)) < 4 * error


@pytest.mark.slow
def test_the_best_filter_beats_the_one_step_conditional_and_stays_below_the_truth() -> None:
    for seed in range(3):
        system = LinearGaussian.random(2, 2, rng(seed))
        f, _, v = conditionals(system, torch.zeros(1, 1, 2, **DOUBLE), False)
        plain = LinearFilter(f[0], v[0] @ system.h.T, torch.linalg.cholesky(v[0])).elbo(system, 20)
        best = LinearFilter.best(system, 20, rounds=4).elbo(system, 20)
        truth = log_likelihood(system, system.simulate(4000, 20, rng(seed))[1]).mean() / 20
        assert plain < best < truth + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 4])
def test_a_learned_filter_is_the_best_filter(seed: int) -> None:
    """Our posterior, learned by our losses in the true system, against the best one optimised directly."""
    system = LinearGaussian.random(1 + seed // 2, 2 + seed // 2, rng(seed), diagonal=True)
    torch.manual_seed(seed)  # of the first weights
    model = model_of(system)
    model.latent = Gaussian(system.sizes[0], 0.01)
    learner = torch.optim.Adam([*model.posterior.parameters(), *model.encoder.parameters()], 0.03)
    falls = torch.optim.lr_scheduler.LinearLR(learner, 1, 0.02, 400)
    draw, terms = rng(seed + 5), [registry.get("loss", name) for name in ("vectors", "kl")]
    for _ in range(400):
        _, obs = system.simulate(64, T, draw)
        no = torch.zeros(64, T, dtype=torch.bool)
        batch = Batch({"state": obs}, torch.zeros(64, T, 1), torch.zeros(64, T), no, no, no)
        roll = model.observe(batch, {"target", "vectors_hat", "posterior", "prior"}, draw)
        learner.zero_grad()
        sum(term(model, roll) for term in terms).backward()
        learner.step()
        falls.step()
    env = LinearEnv(LinearConfig(states=system.sizes[0], obs_size=system.sizes[1], episode_length=T - 1))
    env.system = system
    found = bounds(model.float(), env, rng(9))
    print(f"learned {found['gap']:.4f}, best {found['best_filter_gap']:.4f} nats per step below ln p")
    assert -0.01 < found["gap_to_best_filter"] < 0.05
    assert found["gap"].interval[1] > 0
