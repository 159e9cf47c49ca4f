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
    system, other = LinearGaussian.random(2, 3, draw), LinearGaussian.random(3, 3, draw)
    noise = [0.3 * torch.randn(3, 3, generator=draw, **DOUBLE) for _ in range(4)]
    model = LinearModel(other.a, other.h, torch.eye(3, **DOUBLE) + noise[0], torch.eye(3, **DOUBLE) + noise[1])
    return system, model, LinearFilter(0.5 * other.a, noise[2], (torch.eye(3, **DOUBLE) + noise[3]).tril())


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_likelihood_by_another_model_is_a_cross_entropy(seed: int) -> None:
    system, model, _ = pair(seed)
    ours, theirs = covariance(system, T), covariance(model, T)
    exact = -0.5 * (torch.trace(torch.linalg.solve(theirs, ours)) + torch.logdet(theirs * 2 * torch.pi))
    torch.testing.assert_close(expected_log_likelihood(system, T, model), exact)
    own = td.MultivariateNormal(torch.zeros(len(ours), **DOUBLE), ours)
    torch.testing.assert_close(expected_log_likelihood(system, T), -own.entropy())
    assert exact < -own.entropy()
    _, seen = system.simulate(4000, T, rng(seed + 9))
    found = log_likelihood(model, seen)
    assert abs(found.mean() - exact) < 4 * found.std() / 4000**0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_elbo_of_another_model_by_its_definition(seed: int) -> None:
    """Every term is quadratic in (observations, the posterior's noise): the mean over cubature points is exact."""
    system, model, made = pair(seed)
    n = T * 6
    points = n**0.5 * torch.cat([torch.eye(n, **DOUBLE), -torch.eye(n, **DOUBLE)])  # (2n, n)
    seen = (points[:, : n // 2] @ torch.linalg.cholesky(covariance(system, T)).T).reshape(-1, T, 3)
    noise = points[:, n // 2 :].reshape(-1, T, 3)
    z, total = torch.zeros(2 * n, 3, **DOUBLE), torch.zeros(2 * n, **DOUBLE)
    for t in range(T):
        prior = td.MultivariateNormal(z @ model.a.T, model.q)
        posterior = td.MultivariateNormal(z @ made.f.T + seen[:, t] @ made.k.T, scale_tril=_positive(made.chol))
        z = posterior.mean + noise[:, t] @ made.chol.T
        total += td.MultivariateNormal(z @ model.h.T, model.r).log_prob(seen[:, t]) - td.kl_divergence(posterior, prior)
    torch.testing.assert_close(made.elbo(system, T, model), total.mean() / T)
    assert made.elbo(system, T, model) < expected_log_likelihood(system, T, model) / T


def _positive(chol: Tensor) -> Tensor:
    """The same covariance by a root whose diagonal is positive."""
    return torch.linalg.cholesky(chol @ chol.T)


@pytest.mark.slow
def test_an_elbo_may_rise_while_the_likelihood_falls() -> None:
    system = LinearGaussian.random(2, 2, rng(3))
    first = LinearFilter.best(system, 10, rounds=4)
    found = elbo_ascent(system, 10, first, rounds=2)
    gap = expected_log_likelihood(system, 10) / 10 - first.elbo(system, 10)
    assert 0.01 < found["ascent_elbo"] < float(gap)
    assert -0.2 < found["ascent_exact"] < -1e-4
    assert found["ascent_elbo"] - found["ascent_exact"] < float(gap) + 1e-9  # the bound still holds


def test_nothing_is_lost_by_looking_back_where_the_past_says_nothing() -> None:
    """With A = 0 every prior is N(0, Q), however far it looks ahead; else the farther prior knows less."""
    system = LinearGaussian.random(2, 2, rng(5))
    _, seen = system.simulate(200, 10, rng(6))
    flat = LinearGaussian(0 * system.a, system.q, system.h, system.r)
    first = LinearFilter.best(system, 10, rounds=2)
    assert overshooting_gain(flat, seen, first, rng(0))["overshooting_gain"] == pytest.approx(0, abs=1e-12)
    found = overshooting_gain(system, seen, first, rng(0))
    assert found["overshooting_gain"].interval[1] < -0.01


def test_kl_of_normals_with_shared_covariances_is_torchs() -> None:
    mean, other = torch.randn(2, 7, 3, generator=rng(0), **DOUBLE)
    roots = torch.randn(2, 3, 3, generator=rng(1), **DOUBLE)
    cov, spread = roots @ roots.mT + torch.eye(3, **DOUBLE)
    theirs = td.kl_divergence(td.MultivariateNormal(mean, cov), td.MultivariateNormal(other, spread))
    torch.testing.assert_close(_kl(mean, cov, other, spread), theirs)
