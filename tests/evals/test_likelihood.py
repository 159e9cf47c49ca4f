"""Exact expectations of a model that is not the truth, written down in another way; and a bound that rises alone."""

import pytest
import torch
from linearly import covariance
from torch import Tensor
from torch import distributions as td

from isochrone.envs.linear import LinearGaussian
from isochrone.evals.metrics.likelihood import (
    LinearFilter,
    LinearModel,
    _kl,
    elbo_ascent,
    expected_log_likelihood,
    log_likelihood,
    overshooting_gain,
)

T = 6
DOUBLE = {"dtype": torch.float64}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(seed: int) -> tuple[LinearGaussian, LinearModel, LinearFilter]:
    """A truth of two states, a model of three that is wrong in everything, and some filter for it."""
    draw = rng(seed)
    world, other = LinearGaussian.random(2, 3, draw), LinearGaussian.random(3, 3, draw)
    noise = [0.3 * torch.randn(3, 3, generator=draw, **DOUBLE) for _ in range(4)]
    model = LinearModel(other.a, other.h, torch.eye(3, **DOUBLE) + noise[0], torch.eye(3, **DOUBLE) + noise[1])
    return world, model, LinearFilter(0.5 * other.a, noise[2], (torch.eye(3, **DOUBLE) + noise[3]).tril())


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_likelihood_by_another_model_is_a_cross_entropy(seed: int) -> None:
    world, model, _ = pair(seed)
    ours, theirs = covariance(world, T), covariance(model, T)
    exact = -0.5 * (torch.trace(torch.linalg.solve(theirs, ours)) + torch.logdet(theirs * 2 * torch.pi))
    torch.testing.assert_close(expected_log_likelihood(world, T, model), exact)
    own = td.MultivariateNormal(torch.zeros(len(ours), **DOUBLE), ours)
    torch.testing.assert_close(expected_log_likelihood(world, T), -own.entropy())
    assert exact < -own.entropy()
    _, seen = world.simulate(4000, T, rng(seed + 9))
    found = log_likelihood(model, seen)
    assert abs(found.mean() - exact) < 4 * found.std() / 4000**0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_elbo_of_another_model_by_its_definition(seed: int) -> None:
    """Every term is quadratic in (observations, the posterior's noise): the mean over cubature points is exact."""
    world, model, made = pair(seed)
    n = T * 6
    points = n**0.5 * torch.cat([torch.eye(n, **DOUBLE), -torch.eye(n, **DOUBLE)])  # (2n, n)
    seen = (points[:, : n // 2] @ torch.linalg.cholesky(covariance(world, T)).T).reshape(-1, T, 3)
    noise = points[:, n // 2 :].reshape(-1, T, 3)
    z, total = torch.zeros(2 * n, 3, **DOUBLE), torch.zeros(2 * n, **DOUBLE)
    for t in range(T):
        prior = td.MultivariateNormal(z @ model.a.T, model.q)
        posterior = td.MultivariateNormal(z @ made.f.T + seen[:, t] @ made.k.T, scale_tril=_positive(made.chol))
        z = posterior.mean + noise[:, t] @ made.chol.T
        total += td.MultivariateNormal(z @ model.h.T, model.r).log_prob(seen[:, t]) - td.kl_divergence(posterior, prior)
    torch.testing.assert_close(made.elbo(world, T, model), total.mean() / T)
    assert made.elbo(world, T, model) < expected_log_likelihood(world, T, model) / T


def _positive(chol: Tensor) -> Tensor:
    """The same covariance by a root whose diagonal is positive."""
    return torch.linalg.cholesky(chol @ chol.T)


def test_an_elbo_may_rise_while_the_likelihood_falls() -> None:
    world = LinearGaussian.random(2, 2, rng(3))
    first = LinearFilter.best(world, 10, rounds=4)
    found = elbo_ascent(world, 10, first, rounds=2)
    gap = expected_log_likelihood(world, 10) / 10 - first.elbo(world, 10)
    assert 0.01 < found["ascent_elbo"] < float(gap)
    assert -0.2 < found["ascent_exact"] < -1e-4
    assert found["ascent_elbo"] - found["ascent_exact"] < float(gap) + 1e-9  # the bound still holds


def test_nothing_is_lost_by_looking_back_where_the_past_says_nothing() -> None:
    """With A = 0 every prior is N(0, Q), however far it looks ahead; else the farther prior knows less."""
    world = LinearGaussian.random(2, 2, rng(5))
    _, seen = world.simulate(200, 10, rng(6))
    flat = LinearGaussian(0 * world.a, world.q, world.h, world.r)
    first = LinearFilter.best(world, 10, rounds=2)
    assert overshooting_gain(flat, seen, first, rng(0))["overshooting_gain"] == pytest.approx(0, abs=1e-12)
    found = overshooting_gain(world, seen, first, rng(0))
    assert found["overshooting_gain"].interval[1] < -0.01


def test_kl_of_normals_with_shared_covariances_is_torchs() -> None:
    mean, other = torch.randn(2, 7, 3, generator=rng(0), **DOUBLE)
    roots = torch.randn(2, 3, 3, generator=rng(1), **DOUBLE)
    cov, spread = roots @ roots.mT + torch.eye(3, **DOUBLE)
    theirs = td.kl_divergence(td.MultivariateNormal(mean, cov), td.MultivariateNormal(other, spread))
    torch.testing.assert_close(_kl(mean, cov, other, spread), theirs)
