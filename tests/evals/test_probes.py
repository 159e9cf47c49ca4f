"""Ridge probes: the closed forms, held-out honesty, and refusal of probes that would fit anything."""

from __future__ import annotations

import numpy as np
import pytest

from isochrone.core.errors import UserError
from isochrone.evals.metric import Refused
from isochrone.evals.probes import STRENGTHS, cross_validated, held_out_r2, r2, ridge


def test_an_exact_linear_map_is_found() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 4))
    y = x @ draw.normal(size=(4, 2)) + 3
    assert np.allclose(ridge(x, y)(x), y, atol=1e-5)
    assert held_out_r2(x, y, np.arange(50) < 30) == pytest.approx(1, abs=1e-8)


def test_press_equals_leaving_each_row_out() -> None:
    """The strength chosen by the closed form is the one that explicit leave-one-out refits choose."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(14, 5))
    y = x[:, :1] + 2 * draw.normal(size=(14, 1))
    standard = (x - x.mean(0)) / x.std(0)

    def fit(rows: np.ndarray, strength: float) -> np.ndarray:
        a, b = standard[rows], y[rows] - y[rows].mean(0)
        # The closed form leaves a row out of an already centred problem: the intercept is a free, unpenalised column.
        a1 = np.c_[a, np.ones(len(a))]
        penalty = np.diag([strength] * 5 + [0.0])
        return np.linalg.solve(a1.T @ a1 + penalty, a1.T @ y[rows]) if b.size else np.zeros((6, 1))

    def left_out(strength: float) -> float:
        total = 0.0
        for i in range(14):
            rows = np.arange(14) != i
            total += ((y[i] - np.r_[standard[i], 1] @ fit(rows, strength)) ** 2).item()
        return total

    best = min(STRENGTHS * 14, key=left_out)
    expected = np.c_[standard, np.ones(14)] @ fit(np.ones(14, bool), best)
    assert np.allclose(ridge(x, y)(x), expected, atol=1e-8)


def test_noise_explains_nothing_on_held_out_rows() -> None:
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(300, 20)), draw.normal(size=(300, 1))
    assert float(held_out_r2(x, y, np.arange(300) < 200)) < 0.05
    guess = cross_validated(x, y, np.arange(300) % 5)
    assert r2(y, guess) < 0.05


def test_r2_is_zero_for_the_mean_and_nan_for_a_constant() -> None:
    y = np.arange(6.0)[:, None]
    assert r2(y, np.full_like(y, y.mean())) == pytest.approx(0)
    assert np.isnan(r2(np.ones((4, 1)), np.ones((4, 1))))


def test_underdetermined_probes_are_refused() -> None:
    with pytest.raises(UserError, match="8 rows for 9 features"):
        ridge(np.zeros((8, 9)), np.zeros((8, 1)), "the position probe")
    assert held_out_r2(np.zeros((8, 2)), np.zeros((8, 1)), np.ones(8, bool)) == Refused(
        "the probe needs at least 2 recorded episodes"
    )
