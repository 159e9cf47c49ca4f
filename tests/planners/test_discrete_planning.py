"""Discrete actions against the best of all sequences."""

from functools import partial

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec
from isochrone.planners.cem import CEM
from isochrone.planners.common import score
from isochrone.planners.cost import ReachCost
from isochrone.planners.gradient import Gradient
from isochrone.planners.gumbel import Gumbel
from isochrone.planners.shooting import Shooting

HORIZON = 5


def problems(grid):
    """Six pairs, 2 to 5 actions apart, most of them round a corner."""
    start = torch.tensor([[0.0, 0.0], [0.0, 4.0], [2.0, 4.0], [4.0, 3.0], [3.0, 2.0], [1.0, 6.0]])
    goal = torch.tensor([[2.0, 2.0], [1.0, 4.0], [1.0, 6.0], [4.0, 7.0], [2.0, 0.0], [0.0, 6.0]])
    return start, goal


@pytest.fixture
def task(grid, place):
    """(grid, start state, bound cost, best cost of all sequences)"""
    grid = grid()
    start, goal = problems(grid)
    reach = partial(ReachCost(grid.distance), goal=place(goal))

    def cost(states, actions):  # of two paths that arrive together, the one with more no-ops
        return reach(states, actions) - 0.01 * actions[..., 4].mean(-1)

    every = grid.every(HORIZON).expand(len(start), -1, -1, -1)  # (B, 5^H, H, A)
    best = score(grid.imagine, place(start), cost, every).amin(1)
    grid.calls = 0
    return grid, place(start), cost, best


def test_categorical_cem_finds_the_best_of_all(task, rng):
    grid, state, cost, best = task
    config = CEM.Config(horizon=HORIZON, candidates=200, iterations=10, elites=20)
    plan = CEM(config, grid.action).plan(grid.imagine, state, cost, None, rng)
    torch.testing.assert_close(plan.cost, best)
    assert grid.action.contains(plan.actions)
    assert grid.calls == plan.trace["evaluations"] * 6


def test_shooting_finds_the_best_of_all(task, rng):
    grid, state, cost, best = task
    config = Shooting.Config(horizon=HORIZON, candidates=20_000)
    plan = Shooting(config, grid.action).plan(grid.imagine, state, cost, None, rng)
    assert (plan.cost <= best + 0.4).all()
    assert (plan.cost - best).abs().median() < 1e-6


@pytest.mark.parametrize("kind", [Gumbel, Gradient])
def test_relaxed_planners_find_the_best_where_the_gradient_points_to_it(grid, place, rng, kind):
    grid = grid("........\n" * 5)
    start, goal = problems(grid)
    cost = partial(ReachCost(grid.straight), goal=place(goal))
    every = grid.every(HORIZON).expand(len(start), -1, -1, -1)
    best = score(grid.imagine, place(start), cost, every).amin(1)
    config = kind.Config(horizon=HORIZON, restarts=8, iterations=80)
    plan = kind(config, grid.action).plan(grid.imagine, place(start), cost, None, rng)
    torch.testing.assert_close(plan.cost, best)
    assert grid.action.contains(plan.actions)


def test_gumbel_plans_round_walls(grid, place, rng):
    """With the exact path cost as a differentiable table of one-step costs-to-go, round the corners of the room."""
    grid = grid()
    start, goal = problems(grid)

    def distance(states, aim):
        # The value is the true distance; the slope says how it changes to each side.
        here = grid.distance(states, aim)
        return here + ((states.p - states.p.detach()) * slope(grid, place, states, aim, here)).sum(-1)

    cost = partial(ReachCost(distance), goal=place(goal))
    every = grid.every(HORIZON).expand(len(start), -1, -1, -1)
    best = score(grid.imagine, place(start), cost, every).amin(1)
    config = Gumbel.Config(horizon=HORIZON, restarts=12, iterations=120)
    plan = Gumbel(config, grid.action).plan(grid.imagine, place(start), cost, None, rng)
    assert (plan.cost - best).abs().mean() < 0.15
    assert ((plan.cost - best).abs() < 1e-5).float().mean() >= 0.6


def slope(grid, place, states, aim, here):
    """Half the difference of the true distance between the two neighbours in each direction; a wall counts as here."""
    sides = []
    for move in (grid.moves[1], grid.moves[3]):
        ends = []
        for sign in (1, -1):
            aimed = (states.p.detach() + sign * move).round()
            ok = (aimed >= 0).all(-1) & (aimed[..., 0] < grid.free.shape[0]) & (aimed[..., 1] < grid.free.shape[1])
            cell = torch.where(ok[..., None], aimed, states.p.detach())
            far = grid.distance(place(cell), aim)
            ends.append(torch.where(far.isfinite(), far, here))
        sides.append((ends[0] - ends[1]) / 2)
    return torch.stack(sides, -1)


def test_gumbel_refuses_continuous_actions():
    with pytest.raises(UserError, match="needs discrete actions.*cem or gradient"):
        Gumbel(Gumbel.Config(), ActionSpec("continuous", 2))


def test_the_gradient_planner_refuses_a_cost_without_gradient(grid, place, rng):
    grid = grid()
    start, goal = problems(grid)
    cost = partial(ReachCost(grid.distance), goal=place(goal))  # a table look-up
    with pytest.raises(UserError, match="no gradient reaches the actions.*cem"):
        Gradient(Gradient.Config(), grid.action).plan(grid.imagine, place(start), cost, None, rng)
