"""The return as a cost: sums of rewards, discount, likely ends, computed by hand."""

from __future__ import annotations

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.planners.cost import ReturnCost

REWARD = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 8.0, -1.0]]])  # (B, N, H)
ALIVE = torch.tensor([[[1.0, 0.5, 0.0], [0.25, 1.0, 1.0]]])
ACTIONS = torch.zeros(1, 2, 3, 2)


def cost(**settings) -> list[list[float]]:
    return ReturnCost(lambda states: states[0], **settings)((REWARD, ALIVE), ACTIONS, None).tolist()


def test_the_cost_is_minus_the_sum_of_rewards() -> None:
    assert cost() == [[-7.0, -7.0]]


def test_later_rewards_are_discounted() -> None:
    assert cost(discount=0.5) == [[-(1 + 1 + 1.0), -(4 - 0.25)]]


def test_rewards_after_a_likely_end_are_weighted_by_the_probability_to_get_there() -> None:
    """The reward of arriving counts whether or not the episode ends with it."""
    result = cost(continues=lambda states: states[1])
    assert result == [[-(1 + 2 * 1.0 + 4 * 0.5), -(0 + 8 * 0.25 - 1 * 0.25)]]


def test_a_discount_outside_its_range_is_refused() -> None:
    for discount in (0.0, 1.5):
        with pytest.raises(UserError, match=r"must lie in \(0, 1\]"):
            cost(discount=discount)
