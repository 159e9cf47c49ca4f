"""Reach costs: the three kinds, and what they refuse."""

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.planners.cost import ReachCost

# One row, three candidates, four steps; the goal is 0. Arrives early and stays; passes through; never arrives.
TRACK = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 1.0], [3.0, 3.0, 2.0, 2.0]]])
ACTIONS = torch.zeros(1, 3, 4, 2)


@pytest.fixture
def states(place):
    return place(torch.stack([TRACK, torch.zeros_like(TRACK)], -1))


@pytest.fixture
def goal(place):
    return place(torch.zeros(1, 2))


def distance(a, b):
    return (a.p - b.p).norm(dim=-1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("path", [0.25, 1.0, 2.5]), ("final", [0.0, 1.0, 2.0]), ("first", [1.0, 2.0, 4.0 + 2.0])],
)
def test_every_kind_of_cost_equals_its_formula(states, goal, kind, expected):
    torch.testing.assert_close(ReachCost(distance, kind)(states, ACTIONS, goal), torch.tensor([expected]))


def test_each_row_has_its_own_goal(place):
    states = place(torch.zeros(2, 1, 3, 2))
    goal = place(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert ReachCost(distance)(states, torch.zeros(2, 1, 3, 2), goal).tolist() == [[5.0], [1.0]]


def test_bad_arguments_of_costs_are_refused(states):
    with pytest.raises(UserError, match="no reach cost of kind 'finl'; did you mean 'final'"):
        ReachCost(distance, "finl")
    with pytest.raises(UserError, match="reach radius = -1"):
        ReachCost(distance, radius=-1.0)
    with pytest.raises(UserError, match="needs a goal; got None"):
        ReachCost(distance)(states, ACTIONS, None)
    with pytest.raises(UserError, match=r"distance returned \(1, 3\)"):
        ReachCost(lambda a, b: torch.zeros(1, 3))(states, ACTIONS, states[:, 0, 0])
