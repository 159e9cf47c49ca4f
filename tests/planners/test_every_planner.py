"""What holds for every registered planner: reaches, legal, seeded, blind to its neighbours, moves no weight."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isochrone.core import registry
from isochrone.core.config import override
from isochrone.core.errors import UserError
from isochrone.core.protocols import Planner
from isochrone.core.types import ActionSpec, Plan
from isochrone.planners.cost import ReachCost

KINDS = {"discrete": ActionSpec("discrete", 5, noop=4), "continuous": ActionSpec("continuous", 2)}
SMALL = {"horizon": 4, "candidates": 64, "iterations": 8, "elites": 8, "restarts": 4, "expansions": 40}
MOVES = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])


def build(name, action, **changes):
    """The planner with small numbers, or None where it refuses this kind of action."""
    cls = registry.get("planner", name)
    settings = {k: v for k, v in (SMALL | changes).items() if hasattr(cls.Config(), k)}
    try:
        return cls(override(cls.Config(), settings), action)
    except UserError as error:
        assert "needs discrete actions" in str(error)
        return None


PAIRS = [(n, k) for n in registry.names("planner") for k in KINDS if build(n, KINDS[k]) is not None]


class Plane(nn.Module):
    """An open plane with a learned gain: p' = p + gain * move."""

    def __init__(self, place, action):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))
        self.place, self.moves = place, MOVES if action.discrete else torch.eye(2)

    def imagine(self, state, actions):
        return self.place(state.p[:, None, None] + (actions @ self.moves * self.gain).cumsum(2))


def distance(states, goal):
    return (states.p - goal.p).abs().sum(-1)


@pytest.fixture
def solve(place):
    def run(name, kind, start, goal, warm=None, seed=0, **changes):
        planner = build(name, KINDS[kind], **changes)
        model = Plane(place, KINDS[kind])
        rng = torch.Generator().manual_seed(seed)
        return planner.plan(model.imagine, place(start), partial(ReachCost(distance), goal=place(goal)), warm, rng)

    return run


START = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
GOAL = torch.tensor([[2.0, 0.0], [1.0, 3.0], [-1.0, 1.0]])  # two units away from each start


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_planner_reaches_the_goal(solve, place, name, kind):
    plan = solve(name, kind, START, GOAL, candidates=5000, iterations=40)
    assert plan.actions.shape == (3, 4, KINDS[kind].size)
    end = Plane(place, KINDS[kind]).imagine(place(START), plan.actions[:, None]).p[:, 0, -1]
    left = (end - GOAL).abs().sum(-1)
    assert (left < (1.0 if name == "shooting" and kind == "continuous" else 0.35)).all()
    assert plan.trace["evaluations"] > 0
    assert plan.trace["cost"].shape[1] == 3


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_planner_fits_the_protocol(name, kind):
    assert isinstance(build(name, KINDS[kind]), Planner)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_cost_is_that_of_the_actions_and_never_rises(solve, place, name, kind):
    plan = solve(name, kind, START, GOAL)
    states = Plane(place, KINDS[kind]).imagine(place(START), plan.actions[:, None])
    torch.testing.assert_close(ReachCost(distance)(states, plan.actions[:, None], place(GOAL))[:, 0], plan.cost)
    assert (plan.trace["cost"].diff(dim=0) <= 0).all()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_equal_seeds_give_equal_plans(solve, name, kind):
    first, again = solve(name, kind, START, GOAL, seed=7), solve(name, kind, START, GOAL, seed=7)
    assert torch.equal(first.actions, again.actions)
    assert torch.equal(first.cost, again.cost)
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(solve(name, kind, START, GOAL, seed=7).actions, first.actions)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_batch_equals_its_rows(solve, name, kind):
    together = solve(name, kind, START, GOAL, seed=5)
    for b in range(3):
        alone = solve(name, kind, START[b : b + 1], GOAL[b : b + 1], seed=5)
        torch.testing.assert_close(alone.actions[0], together.actions[b], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_no_weight_collects_a_gradient(place, rng, name, kind):
    action = KINDS[kind]
    model = Plane(place, action)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            cost = partial(ReachCost(distance), goal=place(GOAL))
            plan = build(name, action).plan(model.imagine, place(START), cost, None, rng)
        assert model.gain.grad is None
        assert model.gain.requires_grad
        assert not plan.actions.requires_grad
        assert not plan.cost.requires_grad
        assert not plan.trace["cost"].requires_grad


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_good_warm_start_is_never_lost(solve, name, kind):
    best = solve(name, kind, START, GOAL, candidates=2000, iterations=60, seed=1)
    little = solve(name, kind, START, GOAL, warm=best, candidates=8, elites=2, iterations=1, seed=2)
    assert (little.cost <= best.cost + 1e-6).all()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_model_of_nan_yields_legal_actions_and_an_infinite_cost(place, rng, name, kind):
    action = KINDS[kind]

    def imagine(state, actions):
        return place(torch.full((*actions.shape[:3], 2), torch.nan) + actions.sum(-1, keepdim=True))

    plan = build(name, action).plan(imagine, place(START), partial(ReachCost(distance), goal=place(GOAL)), None, rng)
    assert action.contains(plan.actions)
    assert (plan.cost == torch.inf).all()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    horizon=st.integers(1, 5),
    scale=st.sampled_from([0.0, 1.0, 1e3]),
    warm=st.booleans(),
)
def test_every_action_is_legal(name, kind, seed, batch, horizon, scale, warm):
    from dataclasses import make_dataclass

    from isochrone.core.types import Struct

    place = make_dataclass(
        "Place", [("p", torch.Tensor)], bases=(Struct,), frozen=True, namespace={"feat": lambda s: s.p}
    )
    action, gen = KINDS[kind], torch.Generator().manual_seed(seed)
    start, goal = (torch.randn(batch, 2, generator=gen) * scale for _ in range(2))
    guess = Plan(torch.randn(batch, 3, action.size, generator=gen) * 3, torch.zeros(batch)) if warm else None
    planner = build(name, action, horizon=horizon, candidates=16, iterations=3, elites=4, expansions=8)
    model = Plane(place, action)
    plan = planner.plan(model.imagine, place(start), partial(ReachCost(distance), goal=place(goal)), guess, gen)
    assert plan.actions.shape == (batch, horizon, action.size)
    assert action.contains(plan.actions)


@pytest.mark.parametrize("name", registry.names("planner"))
def test_bad_settings_are_named(name):
    cls = registry.get("planner", name)
    with pytest.raises(UserError, match=r"horizon = 0: must be at least 1"):
        cls(cls.Config(horizon=0), KINDS["discrete"])
    with pytest.raises(UserError, match="unknown option 'horizn'; did you mean 'horizon'"):
        override(cls.Config(), {"horizn": 3})


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("cem", {"elites": 65, "candidates": 64}, "elites = 65: more than cem.candidates = 64"),
        ("cem", {"candidates": 1}, "candidates = 1: must be at least 2"),
        ("cem", {"momentum": 1.0}, "momentum = 1.0: must be less than 1"),
        ("cem", {"std": 0.0}, "std = 0.0: must be greater than 0"),
        ("cem", {"min_spread": float("nan")}, "a finite number"),
        ("shooting", {"candidates": 0}, "candidates = 0: must be at least 1"),
        ("gradient", {"restarts": 0}, "restarts = 0: must be at least 1"),
        ("gradient", {"rate": -0.1}, "rate = -0.1: must be greater than 0"),
        ("gumbel", {"cold": 2.0}, "cold = 2.0: must be at most gumbel.hot = 1.0"),
        ("astar", {"expansions": 0}, "expansions = 0: must be at least 1"),
        ("astar", {"step": 0.0}, "step = 0.0: must be greater than 0"),
    ],
)
def test_bad_values_are_refused(name, bad, words):
    cls = registry.get("planner", name)
    with pytest.raises(UserError, match=words):
        cls(dataclasses.replace(cls.Config(), **bad), KINDS["discrete"])


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="output = 'median': must be one of best, mean"):
        override(registry.get("planner", "cem").Config(), {"output": "median"})


def test_a_warm_plan_of_another_problem_is_refused(place, solve):
    other = Plan(torch.zeros(2, 4, 2), torch.zeros(2))
    with pytest.raises(UserError, match="warm plan has shape .* needs 3 rows"):
        solve("cem", "continuous", START, GOAL, warm=other)


def test_a_cost_of_the_wrong_shape_is_refused(place, rng):
    action = KINDS["continuous"]
    with pytest.raises(UserError, match=r"a cost must return \(3, 64\) \(B, N\); this one returned \(3, 64, 4\)"):
        build("cem", action).plan(Plane(place, action).imagine, place(START), lambda s, a: a.sum(-1), None, rng)


def test_a_state_without_tensors_is_refused(rng):
    with pytest.raises(UserError, match="needs a state that holds tensors; got dict"):
        build("cem", KINDS["continuous"]).plan(lambda s, a: s, {}, lambda s, a: a, None, rng)


def test_gradient_plans_inside_inference_mode(place, rng):
    action = KINDS["continuous"]
    cost, model = partial(ReachCost(distance), goal=place(GOAL)), Plane(place, action)
    with torch.inference_mode():
        plan = build("gradient", action, iterations=60).plan(model.imagine, place(START + 0), cost, None, rng)
    assert plan.cost.max() < 1.0
