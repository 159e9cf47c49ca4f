"""A warm start is the previous plan, shifted by the actions taken."""

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.common import fit_warm_start, shift_plan

PLAN = Plan(torch.arange(4.0).reshape(1, 4, 1) / 10, torch.zeros(1), {"evaluations": 3})
BOX = ActionSpec("continuous", 1)


@pytest.mark.parametrize(
    ("by", "expected"), [(0, [0, 1, 2, 3]), (1, [1, 2, 3, 3]), (3, [3, 3, 3, 3]), (9, [3, 3, 3, 3])]
)
def test_shift_plan_repeats_the_last_action(by, expected):
    shifted = shift_plan(PLAN, by)
    torch.testing.assert_close(shifted.actions[0, :, 0] * 10, torch.tensor(expected, dtype=torch.float))
    assert shifted.trace == {}
    assert PLAN.actions[0, 0, 0] == 0  # the old plan is untouched


def test_a_plan_cannot_be_shifted_back():
    with pytest.raises(UserError, match="by = -1"):
        shift_plan(PLAN, -1)


@pytest.mark.parametrize(("horizon", "expected"), [(2, [0, 1]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 3, 3])])
def test_a_warm_start_is_cut_or_padded_to_the_horizon(horizon, expected):
    guess = fit_warm_start(PLAN, BOX, 1, horizon, torch.device("cpu"))
    torch.testing.assert_close(guess[0, :, 0] * 10, torch.tensor(expected, dtype=torch.float))


def test_an_illegal_guess_is_made_legal():
    wild = Plan(torch.tensor([[[3.0], [-2.0]]]), torch.zeros(1))
    assert BOX.contains(fit_warm_start(wild, BOX, 1, 2, torch.device("cpu")))


def test_without_a_warm_start_there_is_none():
    assert fit_warm_start(None, BOX, 1, 2, torch.device("cpu")) is None
