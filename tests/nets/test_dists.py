"""KL, entropy, sampling and straight-through gradients against torch.distributions and closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as td

from isochrone.nets.distributions import Categorical, Deterministic, Gaussian, Normal, OneHot, PointMass

EXACT = {"atol": 1e-6, "rtol": 1e-6}
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 6), st.integers(0, 10**6), st.floats(0.1, 8))
def test_a_gaussian_equals_torchs(lead: list[int], size: int, seed: int, width: float) -> None:
    family = Gaussian(size, min_std=0.1)
    q, p = (family.dist(width * randn(*lead, family.param_size, seed=seed + i)) for i in (0, 1))
    ours, theirs = (q, p), [td.Normal(d.mean, d.std) for d in (q, p)]
    torch.testing.assert_close(q.kl(p), td.kl_divergence(*theirs), **EXACT)
    torch.testing.assert_close(q.entropy(), theirs[0].entropy(), **EXACT)
    x = randn(*lead, size, seed=seed + 2)
    torch.testing.assert_close(q.log_prob(x), theirs[0].log_prob(x), **EXACT)
    unit = td.Normal(torch.zeros_like(q.mean), torch.ones_like(q.std))
    torch.testing.assert_close(q.kl(q.standard()), td.kl_divergence(theirs[0], unit), **EXACT)
    assert (ours[0].std >= 0.1).all()


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(2, 7), st.floats(0, 0.5), st.integers(0, 10**6), st.floats(0.1, 30))
@example([], 1, 2, 5e-324, 0, 1.0)  # the smallest unimix: a share of it is no float any more
def test_a_categorical_equals_torchs_with_unimix_everywhere(
    lead: list[int], groups: int, classes: int, unimix: float, seed: int, width: float
) -> None:
    family = Categorical(groups, classes, unimix)
    raws = [width * randn(*lead, family.param_size, seed=seed + i) for i in (0, 1)]
    mixed = [(1 - unimix) * r.unflatten(-1, (groups, classes)).softmax(-1) + unimix / classes for r in raws]
    q, p = (family.dist(r) for r in raws)
    if unimix < 1e-6 and width > 8:
        return  # next to no unimix: torch's own probabilities reach zero, and its KL rounds
    theirs = [td.Categorical(probs=m) for m in mixed]
    torch.testing.assert_close(q.logits.exp(), mixed[0], **EXACT)
    torch.testing.assert_close(q.kl(p), td.kl_divergence(*theirs), **EXACT)
    torch.testing.assert_close(q.entropy(), theirs[0].entropy(), **EXACT)
    torch.testing.assert_close(q.kl(q.standard()), math.log(classes) - q.entropy(), **EXACT)
    hot = family.sample(raws[0], family.noise(*lead, like=raws[0], rng=rng(seed)))
    index = hot.unflatten(-1, (groups, classes)).argmax(-1)
    torch.testing.assert_close(q.log_prob(hot), theirs[0].log_prob(index), **EXACT)


def test_a_categorical_draws_with_its_own_probabilities() -> None:
    """Frequencies over many draws, with unimix: chi-squared per group below the 1e-6 quantile."""
    family, draws = Categorical(3, 4, 0.2), 200_000
    raw = 2 * randn(family.param_size)
    hot = family.sample(raw.expand(draws, -1), family.noise(draws, like=raw, rng=rng(1)))
    assert set(hot.unique().tolist()) == {0.0, 1.0}
    assert (hot.unflatten(-1, (3, 4)).sum(-1) == 1).all()
    expected = family.dist(raw).logits.exp() * draws
    seen = hot.unflatten(-1, (3, 4)).sum(0)
    assert (((seen - expected) ** 2 / expected).sum(-1) < 30.7).all()  # chi2(3), 1e-6


def test_a_gaussian_draws_its_mean_and_spread_from_the_noise_it_is_given() -> None:
    family, raw = Gaussian(5), randn(7, 10)
    belief, noise = family.dist(raw), family.noise(7, like=raw, rng=rng(3))
    torch.testing.assert_close(family.sample(raw, noise), belief.mean + belief.std * noise)
    assert torch.equal(family.sample(raw, None), belief.mode())
    assert torch.equal(noise, torch.randn(7, 5, generator=rng(3), dtype=torch.float64))


@pytest.mark.parametrize("compiling", [False, True])
def test_straight_through_is_the_gradient_of_the_mixed_probabilities(
    compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)  # there the same in plain operations
    family = Categorical(3, 5, 0.1)
    raw = randn(6, 15).requires_grad_()
    weight = randn(6, 15, seed=1)
    hot = family.sample(raw, family.noise(6, like=raw, rng=rng()))
    assert torch.equal(hot.detach().unique(), torch.tensor([0.0, 1.0], dtype=raw.dtype))
    assert hot.sum() == 18
    (ours,) = torch.autograd.grad((hot * weight).sum(), raw)
    probs = 0.9 * raw.unflatten(-1, (3, 5)).softmax(-1) + 0.1 / 5
    (theirs,) = torch.autograd.grad((probs.flatten(-2) * weight).sum(), raw)
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_without_noise_the_sample_is_the_mode() -> None:
    family, raw = Categorical(3, 5), randn(6, 15)
    assert torch.equal(family.sample(raw, None), family.dist(raw).mode())
    assert torch.equal(family.sample(raw, None).unflatten(-1, (3, 5)).argmax(-1), raw.unflatten(-1, (3, 5)).argmax(-1))


@pytest.mark.parametrize("family", [Gaussian(4), Categorical(3, 4)])
def test_kl_is_the_mean_log_ratio_of_samples(family: Gaussian | Categorical) -> None:
    raws = [randn(family.param_size, seed=s) for s in (0, 1)]
    q, p = (family.dist(r) for r in raws)
    x = family.sample(raws[0].expand(100_000, -1), family.noise(100_000, like=raws[0], rng=rng(2)))
    found = (q.log_prob(x) - p.log_prob(x)).sum(-1)
    error = found.std() / 100_000**0.5
    assert abs(found.mean() - q.kl(p).sum()) < 5 * error


def test_the_kl_of_point_masses_is_that_of_unit_gaussians() -> None:
    a, b = randn(3, 4), randn(3, 4, seed=1)
    family = Deterministic(4)
    one = torch.ones_like(a)
    torch.testing.assert_close(family.dist(a).kl(PointMass(b)), Normal(a, one).kl(Normal(b, one)), **EXACT)
    torch.testing.assert_close(PointMass(a).entropy(), Normal(a, one).entropy(), **EXACT)
    assert family.noise(3, like=a, rng=rng()) is None
    assert torch.equal(family.sample(a, None), a)


def test_kl_is_zero_at_itself_and_never_below() -> None:
    for family in (Gaussian(4), Categorical(3, 4), Categorical(3, 4, 0.0), Deterministic(4)):
        q, p = (family.dist(5 * randn(50, family.param_size, seed=s)) for s in (0, 1))
        torch.testing.assert_close(q.kl(q), torch.zeros_like(q.kl(q)), atol=1e-12, rtol=0)
        assert (q.kl(p) >= -1e-12).all()


def test_one_hot_logits_stay_finite_far_out() -> None:
    raw = torch.tensor([[1e4, 0.0, -1e4]])
    mixed, bare = (Categorical(1, 3, u).dist(raw) for u in (0.01, 0.0))
    assert torch.isfinite(mixed.logits).all()
    torch.testing.assert_close(mixed.logits.exp()[0, 0, 1].item(), 0.01 / 3)
    assert isinstance(bare, OneHot)
    assert bare.mode().tolist() == [[1, 0, 0]]
