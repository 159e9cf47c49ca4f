"""A* over predicted states against breadth-first search."""

from functools import partial

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec
from isochrone.planners.astar import AStar
from isochrone.planners.cost import ReachCost


def solve(grid, place, start, goal, distance=None, **options):
    options = {"horizon": 24, "expansions": 400, "width": 4} | options
    planner = AStar(AStar.Config(**options), grid.action)
    cost = partial(ReachCost(distance or grid.distance), goal=place(goal))
    return planner.plan(grid.imagine, place(start), cost, None, torch.Generator())


def walk(grid, place, start, plan, length):
    """Where the plan is after `length[b]` actions."""
    states = grid.imagine(place(start), plan.actions[:, None]).p[:, 0]
    states = torch.cat([start[:, None], states], 1)
    return states[torch.arange(len(start)), length]


@pytest.mark.parametrize("heuristic", ["exact", "straight", "none"])
def test_every_pair_gets_a_shortest_path(grid, place, heuristic):
    grid = grid()
    cells = grid.cells()
    start, goal = (
        x.reshape(-1, 2) for x in (cells[:, None].expand(-1, len(cells), 2), cells.expand(len(cells), -1, 2))
    )
    distance = grid.straight if heuristic == "straight" else grid.distance
    plan = solve(grid, place, start, goal, distance, weight=0.0 if heuristic == "none" else 1.0, goal_radius=0.4)
    truth = grid.far[grid.index(start), grid.index(goal)]
    assert plan.trace["reached"].all()
    assert torch.equal(plan.trace["length"].float(), truth)
    assert torch.equal(walk(grid, place, start, plan, plan.trace["length"]), goal)
    assert torch.equal(grid.imagine(place(start), plan.actions[:, None]).p[:, 0, -1], goal)  # no-ops keep it there


def test_noisy_heuristic_still_arrives_near_the_optimum(grid, place):
    grid = grid()
    cells = grid.cells()
    gen = torch.Generator().manual_seed(0)
    noise = torch.randn(grid.far.shape, generator=gen) * 0.3
    noise.fill_diagonal_(0)

    def distance(a, b):
        exact = grid.distance(a, b)
        return torch.where(exact > 0, (exact + noise[grid.index(a.p), grid.index(b.p)]).clamp(min=0.6), 0.0)

    start, goal = cells[torch.randperm(len(cells), generator=gen)], cells
    plan = solve(grid, place, start, goal, distance)
    truth = grid.far[grid.index(start), grid.index(goal)]
    assert plan.trace["reached"].all()
    assert (plan.trace["length"] / truth.clamp(min=1)).mean() <= 1.05


@pytest.mark.parametrize(("penalty", "arrives"), [(5.0, True), (0.0, False)])
@pytest.mark.parametrize("start", [[0.0, 0.0], [2.0, 1.0]])
def test_the_search_continues_beyond_a_neighbour_that_resembles_the_goal(grid, place, start, penalty, arrives):
    grid = grid()
    start, goal = torch.tensor([start]), torch.tensor([[2.0, 2.0]])

    def distance(a, b):  # every neighbour of the goal looks like an arrival, the goal a little more so
        exact = grid.distance(a, b)
        return torch.where(exact == 1, 0.4, torch.where(exact == 0, 0.02, exact))

    plan = solve(grid, place, start, goal, distance, arrival_penalty=penalty)
    end = grid.imagine(place(start), plan.actions[:, None]).p[:, 0, -1]
    assert plan.trace["reached"].all()
    assert torch.equal(end, goal) == arrives


def test_without_noop_the_tail_is_greedy_and_legal(grid, place):
    grid = grid(noop=False)
    start, goal = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    plan = solve(grid, place, start, goal, horizon=6)
    assert grid.action.contains(plan.actions)
    assert torch.equal(walk(grid, place, start, plan, torch.tensor([2])), goal)
    late = grid.distance(grid.imagine(place(start), plan.actions[:, None]), place(goal[:, None, None]))[0, 0, 1:]
    assert (late <= 1).all()  # hovers at the goal


def test_when_the_budget_ends_the_path_to_the_nearest_node_is_returned(grid, place):
    grid = grid()
    start, goal = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 7.0]])
    plan = solve(grid, place, start, goal, expansions=3, width=1)
    assert not plan.trace["reached"].any()
    assert plan.trace["length"] == 3
    end = walk(grid, place, start, plan, plan.trace["length"])
    assert grid.far[grid.index(end), grid.index(goal)] == grid.far[grid.index(start), grid.index(goal)] - 3


def test_long_paths_are_cut_to_the_horizon(grid, place):
    grid = grid()
    start, goal = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 6.0]])
    whole, cut = solve(grid, place, start, goal), solve(grid, place, start, goal, horizon=3)
    assert cut.actions.shape == (1, 3, 5)
    assert torch.equal(cut.actions, whole.actions[:, :3])


def test_rows_do_not_influence_each_other(grid, place):
    grid = grid()
    cells = grid.cells()
    start, goal = cells, cells.flip(0)
    together = solve(grid, place, start, goal)
    for b in range(0, len(start), 5):
        alone = solve(grid, place, start[b : b + 1], goal[b : b + 1])
        assert torch.equal(alone.actions[0], together.actions[b])


def test_imagined_steps_are_counted(grid, place):
    grid = grid()
    plan = solve(grid, place, torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 7.0]]))
    assert plan.trace["evaluations"] == grid.calls
    assert plan.trace["cost"].shape[1] == 1
    assert (plan.trace["cost"].diff(dim=0) <= 0).all()


def test_continuous_actions_are_refused():
    with pytest.raises(UserError, match="needs discrete actions.*cem or gradient"):
        AStar(AStar.Config(), ActionSpec("continuous", 2))
