"""symlog, symexp and two-hot targets, by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.nets.distributions import bins, symexp, symlog, two_hot, two_hot_mean, two_hot_nll


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_symexp_undoes_symlog(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-9, atol=1e-9)
    for v, found in zip(values, symlog(x).tolist(), strict=True):
        assert found == pytest.approx(math.copysign(math.log1p(abs(v)), v), rel=1e-12, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=8), st.sampled_from(["symexp", "symlog"]))
def test_a_two_hot_target_has_two_neighbours_and_the_mean_of_its_value(values: list[float], spaced: str) -> None:
    places = bins(spaced=spaced, dtype=torch.float64)
    x = torch.tensor(values, dtype=torch.float64).clamp(places[0], places[-1])
    weights = two_hot(x, places)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(x))
    torch.testing.assert_close(weights @ places, x, rtol=1e-9, atol=1e-9)
    assert ((weights > 0).sum(-1) <= 2).all()
    assert (weights >= 0).all()
    for row in weights:
        at = row.nonzero()[:, 0]
        assert len(at) == 1 or int(at[1] - at[0]) == 1


def test_values_beyond_the_last_bin_become_the_last_bin() -> None:
    places = bins(5, 2.0, "symlog")
    assert two_hot(torch.tensor([-9.0, 9.0]), places).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_the_loss_is_the_cross_entropy_by_hand() -> None:
    places = bins(5, 2.0, "symlog", dtype=torch.float64)  # -2 -1 0 1 2
    logits = torch.tensor([0.3, -1.0, 0.7, 0.2, -0.4], dtype=torch.float64)
    log = logits - logits.exp().sum().log()
    expected = -(0.75 * log[2] + 0.25 * log[3])
    torch.testing.assert_close(two_hot_nll(logits, torch.tensor(0.25, dtype=torch.float64), places), expected)
    torch.testing.assert_close(two_hot_mean(logits, places), (log.exp() * places).sum())


@pytest.mark.parametrize("spaced", ["symexp", "symlog"])
def test_equal_probabilities_decode_to_exactly_zero(spaced: str) -> None:
    """The outer places are at 5e8: a sum that is not paired would leave a reward of its own rounding."""
    for seed in range(5):
        half = torch.randn(127, generator=torch.Generator().manual_seed(seed))
        logits = torch.cat([half, torch.zeros(1), half.flip(0)])
        assert two_hot_mean(logits, bins(spaced=spaced)).item() == 0.0
        assert two_hot_mean(torch.zeros(255), bins(spaced=spaced)).item() == 0.0


def test_bins_are_antisymmetric_and_an_even_number_is_refused() -> None:
    places = bins()
    assert torch.equal(places, -places.flip(0))
    assert len(places) == 255
    assert places[127] == 0
    with pytest.raises(ValueError, match="4 bins; an odd number"):
        bins(4)
