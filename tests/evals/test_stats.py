"""Every statistic against brute force or its closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from isochrone.core.errors import UserError
from isochrone.evals import stats


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_wilson_closed_form() -> None:
    low, high = stats.wilson(8, 10)
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # Wilson (1927), as tabulated
    for n, k in ((500, 500), (500, 0), (1, 1)):
        low, high = stats.wilson(k, n)
        assert 0 <= low <= k / n <= high <= 1
        assert high > low
    roots = np.roots([1 + 1.959964**2 / 50, -(2 * 0.3 + 1.959964**2 / 50), 0.3**2])  # (p - q)^2 = z^2 q(1-q)/n
    assert stats.wilson(15, 50) == pytest.approx(sorted(roots), abs=1e-6)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(UserError, match="no share"):
        stats.wilson(k, n)


def test_bootstrap_covers_as_often_as_it_says(draw: np.random.Generator) -> None:
    inside = 0
    for _ in range(200):
        low, high = stats.bootstrap_mean(draw.normal(1.0, 2.0, 60), draw, 300)
        inside += low <= 1.0 <= high
    assert 178 <= inside <= 199
    assert stats.bootstrap_mean(np.full(9, 3.0), draw) == (3.0, 3.0)


def test_paired_bootstrap_sees_a_small_steady_gain(draw: np.random.Generator) -> None:
    base = draw.normal(0, 10, 100)
    mean, low, high = stats.paired_bootstrap(base + 0.1 + draw.normal(0, 0.01, 100), base, draw)
    assert mean == pytest.approx(0.1, abs=0.01)
    assert 0.09 < low < high < 0.11
    with pytest.raises(UserError, match="same trials"):
        stats.paired_bootstrap(base, base[:5], draw)


def test_ranks_share_ties() -> None:
    assert stats.ranks(np.array([10.0, 20.0, 10.0, 5.0])).tolist() == [2.5, 4.0, 2.5, 1.0]


def test_spearman_against_the_textbook_formula(draw: np.random.Generator) -> None:
    a, b = draw.permutation(9), draw.permutation(9)
    d = stats.ranks(a) - stats.ranks(b)
    assert stats.spearman(a, b) == pytest.approx(1 - 6 * (d**2).sum() / (9 * 80))
    assert stats.spearman(a, np.exp(a)) == pytest.approx(1)
    assert np.isnan(stats.spearman(a, np.ones(9)))


def test_auroc_counts_pairs(draw: np.random.Generator) -> None:
    score, positive = draw.integers(0, 5, 40).astype(float), draw.random(40) < 0.3
    wins = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(score[positive].tolist(), score[~positive].tolist())]
    assert stats.auroc(score, positive) == pytest.approx(np.mean(wins))
    assert stats.auroc(-score, positive) == pytest.approx(1 - np.mean(wins))
    low, high = stats.auroc_interval(score, positive, draw)
    assert low < stats.auroc(score, positive) < high
    assert np.isnan(stats.auroc(score, np.ones(40, bool)))


def test_weighted_pair_statistics_agree_with_copies_of_places(draw: np.random.Generator) -> None:
    """A place drawn twice must count like two places: the weighted statistic against an explicit resample."""
    a, b = draw.random((6, 6)), draw.random((6, 6))
    mask = ~np.eye(6, dtype=bool)
    seen: list[tuple[np.ndarray, float]] = []
    real = stats.over_places

    def spy(statistic, places, rng, draws=200):  # type: ignore[no-untyped-def]
        weight = rng.multinomial(places, np.full(places, 1 / places)).astype(float)
        seen.append((weight, statistic(np.outer(weight, weight))))
        return real(statistic, places, rng, 20)

    stats.over_places, kept = spy, stats.over_places
    try:
        stats.pair_mean(a, mask, draw)
        stats.pair_spearman(a, b, mask, draw)
    finally:
        stats.over_places = kept
    (weight, mean), (again, rank) = seen
    rows = np.repeat(np.arange(6), weight.astype(int))
    copied = [(i, j) for i in rows for j in rows if mask[i, j]]
    assert mean == pytest.approx(np.mean([a[i, j] for i, j in copied]))
    ra, rb = np.zeros((6, 6)), np.zeros((6, 6))
    ra[mask], rb[mask] = stats.ranks(a[mask]), stats.ranks(b[mask])
    rows = np.repeat(np.arange(6), again.astype(int))
    copied = [(i, j) for i in rows for j in rows if mask[i, j]]
    expected = np.corrcoef([ra[i, j] for i, j in copied], [rb[i, j] for i, j in copied])[0, 1]
    assert rank == pytest.approx(expected)
