"""Costs: the three kinds of arrival, the algebra, and what they refuse."""

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec
from isochrone.planners.cost import Effort, Reach, Weighted, mixed

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
def test_kinds(states, goal, kind, expected):
    torch.testing.assert_close(Reach(distance, kind)(states, ACTIONS, goal), torch.tensor([expected]))


def test_each_row_has_its_own_goal(place):
    states = place(torch.zeros(2, 1, 3, 2))
    goal = place(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert Reach(distance)(states, torch.zeros(2, 1, 3, 2), goal).tolist() == [[5.0], [1.0]]


def test_costs_add_and_scale(states, goal):
    reach, effort = Reach(distance, "final"), Effort(ActionSpec("continuous", 2))
    actions = torch.full_like(ACTIONS, 0.5)
    a, b = reach(states, actions, goal), effort(states, actions, goal)
    torch.testing.assert_close((0.5 * reach + effort * 2 + reach)(states, actions, goal), 1.5 * a + 2 * b)
    torch.testing.assert_close((2 * (reach + 3 * effort))(states, actions, goal), 2 * a + 6 * b)
    assert len((2 * (reach + 3 * effort)).parts) == 2  # flat
    torch.testing.assert_close((0.5 * reach).bind(goal)(states, actions), 0.5 * a)


def test_mixed_weighs_spaces(states, goal):
    both = mixed({"p": (1.0, distance), "z": (0.1, lambda a, b: 10 * distance(a, b))}, "final")
    torch.testing.assert_close(both(states, ACTIONS, goal), 2 * Reach(distance, "final")(states, ACTIONS, goal))


def test_effort(states, goal):
    walk = ActionSpec("discrete", 3, noop=2)
    actions = walk.one_hot(torch.tensor([[[2, 2, 2, 2], [0, 2, 1, 2], [0, 0, 1, 1]]]))
    assert Effort(walk)(states, actions, goal).tolist() == [[0.0, 0.5, 1.0]]
    push = torch.full((1, 3, 4, 2), -1.0)
    assert Effort(ActionSpec("continuous", 2))(states, push, goal).tolist() == [[2.0, 2.0, 2.0]]


def test_what_costs_refuse(states):
    with pytest.raises(UserError, match="no reach cost of kind 'finl'; did you mean 'final'"):
        Reach(distance, "finl")
    with pytest.raises(UserError, match="reach radius = -1"):
        Reach(distance, radius=-1.0)
    with pytest.raises(UserError, match="needs a goal; got None"):
        Reach(distance)(states, ACTIONS, None)
    with pytest.raises(UserError, match="this space has no no-op"):
        Effort(ActionSpec("discrete", 4))
    with pytest.raises(UserError, match="nan is not a finite number"):
        float("nan") * Reach(distance)
    with pytest.raises(UserError, match="at least one distance"):
        mixed({})
    with pytest.raises(TypeError):
        Reach(distance) + 1  # type: ignore[operator]
    with pytest.raises(UserError, match=r"distance returned \(1, 3\)"):
        Reach(lambda a, b: torch.zeros(1, 3)).bind(states[:, 0, 0])(states, ACTIONS)


def test_a_weighted_sum_of_nothing_is_zero(states, goal):
    assert Weighted(())(states, ACTIONS, goal).tolist() == [[0.0, 0.0, 0.0]]
