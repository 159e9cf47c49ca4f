"""Every statistic against brute force or its closed form."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from isochrone.core.errors import UserError
from isochrone.evals import stats


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_student_t_against_its_table() -> None:
    table = {
        1: 12.7062,
        2: 4.3027,
        3: 3.1824,
        4: 2.7764,
        9: 2.2622,
        30: 2.0423,
        63: 1.9983,
        201: 1.97183,
        4095: 1.96055,
    }
    for freedom, quantile in table.items():
        assert stats.student_t(freedom) == pytest.approx(quantile, abs=1e-4)
    half = 4.3027 / 3**0.5
    assert stats.t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), abs=1e-4)
    assert stats.t_interval([1.0]) is None


def test_clopper_pearson_closed_form() -> None:
    assert stats.clopper_pearson(8, 10) == pytest.approx((0.4439045, 0.9747893), abs=1e-6)  # as tabulated
    for n in (1, 7, 500):
        assert stats.clopper_pearson(n, n) == pytest.approx((0.025 ** (1 / n), 1))
        assert stats.clopper_pearson(0, n) == pytest.approx((0, 1 - 0.025 ** (1 / n)))


def test_clopper_pearson_covers_at_every_share() -> None:
    """Exactly, by the binomial distribution; Wilson's interval covers 86 % at the last share."""
    for share in (0.1, 0.9, 0.998, 0.9997):
        inside = 0.0
        for k in range(101):
            low, high = stats.clopper_pearson(k, 100)
            inside += comb(100, k) * share**k * (1 - share) ** (100 - k) * (low <= share <= high)
        assert inside >= 0.95


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_clopper_pearson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(UserError, match="no share"):
        stats.clopper_pearson(k, n)


@pytest.mark.parametrize("count", [5, 40])
def test_the_bootstrap_covers_as_often_as_it_says(draw: np.random.Generator, count: int) -> None:
    inside = 0
    for _ in range(300):
        low, high = stats.bootstrap_mean(draw.normal(1.0, 2.0, count), draw, 300)
        inside += low <= 1.0 <= high
    assert inside >= 0.93 * 300
    assert stats.bootstrap_mean(np.full(9, 3.0), draw) == (3.0, 3.0)
    assert stats.bootstrap_mean(np.array([3.0]), draw) == (3.0, 3.0)


def test_shares_over_seeds_see_that_seeds_differ() -> None:
    """The published CEM on four-rooms: 95.8 … 97.2 by Wilson over pooled pairs, 94.2 … 98.9 by t over seeds."""
    solved = [478, 493, 493, 476, 474]
    low, high = stats.share_over_seeds(solved, [500] * 5) or (0, 0)
    t = stats.t_interval([k / 500 for k in solved]) or (0, 0)
    assert t == pytest.approx((0.942, 0.989), abs=5e-4)
    assert (low, high) == pytest.approx((0.938, 0.989), abs=2e-3)  # lower: shares near 1 are skewed
    assert stats.share_over_seeds([500] * 5, [500] * 5) == pytest.approx(stats.clopper_pearson(2500, 2500), abs=1e-3)
    assert stats.share_over_seeds([500], [500]) is None


def test_differences_over_seeds_see_that_seeds_differ() -> None:
    first, second = [22, 7, 7, 24, 26], [0, 0, 0, 0, 0]
    low, high = stats.difference_over_seeds(first, second, [500] * 5) or (0, 0)
    share = stats.share_over_seeds(first, [500] * 5) or (0, 0)
    assert high == pytest.approx(share[1])
    assert low <= share[0]
    low, high = stats.difference_over_seeds([0, 0, 0], [0, 0, 0], [500] * 3) or (0, 0)
    assert -0.003 < low < 0 < high < 0.003
    assert low == -high
    assert stats.difference_over_seeds([1], [0], [500]) is None


def test_a_ratio_of_equal_parts_is_a_mean(draw: np.random.Generator) -> None:
    x = draw.normal(0, 1, 12)
    assert stats.ratio_interval(x, np.ones(12)) == pytest.approx(stats.t_interval(x) or ())


def test_horizon_curves_average_rows_or_episodes(draw: np.random.Generator) -> None:
    values = draw.random((8, 3, 2))
    valid = draw.random((8, 3, 2)) < 0.7
    valid[..., 1] = False
    mean, low, high = stats.horizon_curve(values, valid, draw)
    assert mean[0] == pytest.approx(values[..., 0][valid[..., 0]].mean())
    assert low[0] < mean[0] < high[0]
    assert np.isnan([mean[1], low[1], high[1]]).all()
    each = [v[m].mean() for v, m in zip(values[..., 0], valid[..., 0], strict=True) if m.any()]
    mean, low, high = stats.horizon_curve(values, valid, draw, "episodes")
    assert mean[0] == pytest.approx(np.mean(each))
    assert low[0] < mean[0] < high[0]


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
    assert np.isnan(stats.auroc(score, np.ones(40, bool)))


def test_the_interval_of_an_auroc_solves_its_equation() -> None:
    """|AUROC - a| = 1.96 standard errors at both ends, with the variance of Hanley & McNeil (1982) at the ends."""
    for share, yes, no in ((0.8, 12, 40), (1.0, 6, 100), (0.0, 5, 5)):
        low, high = stats.auroc_interval(share, yes, no)
        assert 0 <= low <= share <= high <= 1
        assert high - low > 0.1
        for a in (low, high):
            if 0 < a < 1:
                half = (yes + no) / 2 - 1
                variance = a * (1 - a) * (1 + half * (1 - a) / (2 - a) + half * a / (1 + a)) / (yes * no)
                assert abs(share - a) == pytest.approx(1.959964 * variance**0.5, abs=1e-6)
    assert np.isnan(stats.auroc_interval(float("nan"), 3, 3)).all()


def test_not_a_number_has_no_rank(draw: np.random.Generator) -> None:
    x = draw.random(9)
    x[4] = np.nan
    y = draw.random(9)
    assert np.isnan(stats.ranks(x)).all()
    assert np.isnan(stats.spearman(x, y))
    assert np.isnan(stats.spearman(y, x))
    assert np.isnan(stats.auroc(x, np.arange(9) < 3))


@pytest.mark.parametrize("kind", ["mean", "rank", "auroc"])
def test_statistics_of_pairs_leave_out_one_place_at_a_time(draw: np.random.Generator, kind: str) -> None:
    """The closed forms against the same statistic computed anew without each place."""
    count = 9
    a, b = draw.random((count, count)).round(1), draw.random((count, count))
    mask = ~np.eye(count, dtype=bool)
    positive = (draw.random((count, count)) < 0.4) & mask
    ra, rb = np.zeros(mask.shape), np.zeros(mask.shape)
    ra[mask], rb[mask] = stats.ranks(a[mask]), stats.ranks(b[mask])

    def of(keep: np.ndarray) -> float:
        pairs = np.ix_(keep, keep)
        if kind == "mean":
            return float(a[pairs][mask[pairs]].mean())
        if kind == "rank":
            return float(np.arctanh(np.corrcoef(ra[pairs][mask[pairs]], rb[pairs][mask[pairs]])[0, 1]))
        return stats.auroc(a[pairs][mask[pairs]], positive[pairs][mask[pairs]])

    everyone = np.arange(count)
    expected = stats.jackknife_interval(of(everyone), np.array([of(np.delete(everyone, k)) for k in everyone]))
    if kind == "mean":
        assert stats.pair_mean(a, mask) == pytest.approx(expected)
    elif kind == "rank":
        assert stats.pair_spearman(a, b, mask) == pytest.approx(tuple(np.tanh(expected)))
    else:
        share, ends = stats.pair_auroc(a, positive, mask & ~positive)
        assert share == pytest.approx(of(everyone))
        assert ends == pytest.approx(tuple(np.clip(expected, 0, 1)))


def test_pairs_that_are_all_right_still_have_an_interval() -> None:
    mask = np.triu(np.ones((20, 20), bool), 1)
    assert stats.pair_share(np.ones((20, 20), bool), mask) == pytest.approx(stats.clopper_pearson(20, 20))
    assert stats.pair_share(np.zeros((20, 20), bool), mask) == pytest.approx(stats.clopper_pearson(0, 20))
    score = np.where(mask, 1.0, 0.0)
    share, (low, high) = stats.pair_auroc(score, mask, mask.T)
    assert share == 1
    assert 0.8 < low < high == 1
