"""Pairs, baselines and what is reported of an agent."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from perfect import Greedy, Perfect, make_env

from isochrone.agents.baselines import NoOp
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.types import Struct
from isochrone.evals import suite
from isochrone.evals.context import Context, EvalConfig
from isochrone.evals.metric import Refused
from isochrone.evals.metrics.planning import (
    Outcome,
    _best,
    baseline_agents,
    can_select_rows,
    evaluate_agent,
    plan_pairs,
    select_rows,
    success_and_paths,
    summary,
)


def test_pairs_are_reachable_unsolved_and_different(rng: torch.Generator) -> None:
    env = make_env()
    pairs = plan_pairs(env, 200, rng)
    assert len(pairs.shortest) == 200
    assert bool((pairs.shortest >= 1).all())
    assert torch.equal(env.distance(pairs.start, pairs.goal), pairs.shortest)
    both = torch.cat([pairs.start.position, pairs.goal.position], 1)
    assert len(both.unique(dim=0)) == 200
    again = plan_pairs(env, 200, torch.Generator().manual_seed(0))
    assert torch.equal(again.start.position, pairs.start.position)
    few = plan_pairs(make_env("..."), 50, rng)
    assert len(few.shortest) == 6
    assert few.dropped == 3


def test_a_map_where_nothing_can_be_reached_is_refused(rng: torch.Generator) -> None:
    with pytest.raises(UserError, match="connected cells"):
        plan_pairs(make_env(".#.\n###\n.#."), 5, rng)
    with pytest.raises(UserError, match="at least 1"):
        plan_pairs(make_env("..."), 0, rng)


def test_baselines_and_a_perfect_planner(rng: torch.Generator) -> None:
    env = make_env()
    pairs = plan_pairs(env, 120, rng)
    budget = 2 * int(pairs.shortest.max())
    found = baseline_agents(env, pairs)
    replay = evaluate_agent(env, found["replay"], pairs, budget)
    assert replay.success.all()
    assert replay.success_at_end.all()
    assert np.array_equal(replay.steps, pairs.shortest.numpy())
    noop = evaluate_agent(env, found["noop"], pairs, budget)
    assert not noop.success.any()
    assert (noop.steps == budget).all()
    assert np.isnan(noop.ratio).all()
    wander = evaluate_agent(env, found["random"], pairs, budget, rng=rng)
    assert 0 < wander.success.mean() < 0.6
    assert wander.success_at_end.mean() < wander.success.mean()
    ticks = iter(range(10**6))
    greedy = evaluate_agent(env, Greedy(Perfect(env)), pairs, budget, clock=lambda: float(next(ticks)))
    assert greedy.success.all()
    assert greedy.success_at_end.all()
    assert np.nanmax(greedy.ratio) == 1
    assert greedy.seconds > 0
    assert greedy.evaluations > 5
    for pair in range(len(greedy.success)):  # the recorded path starts at the start and reaches the goal
        path = greedy.path[pair][~np.isnan(greedy.path[pair][:, 0])]
        assert np.array_equal(path[0], pairs.start.position[pair].numpy())
        assert np.array_equal(path[greedy.steps[pair]], pairs.goal.position[pair].numpy())
    numbers = summary(wander, rng)
    low, high = numbers["success"].interval
    assert low < numbers["success"] < high
    assert "seconds" not in numbers
    assert "evaluations" not in numbers


@pytest.mark.slow
def test_baselines_with_continuous_actions(rng: torch.Generator) -> None:
    env = make_env(".....\n.....\n.....\n.....", actions="continuous")
    pairs = plan_pairs(env, 40, rng)
    found = baseline_agents(env, pairs)
    outcome = evaluate_agent(env, found["replay"], pairs, 2 * int(pairs.shortest.max()))
    assert outcome.success.all()
    assert outcome.success_at_end.all()
    assert not evaluate_agent(env, found["noop"], pairs, 5).success.any()


def test_leaving_the_batch_changes_nobody_else(rng: torch.Generator) -> None:
    """A carry that cannot be cut keeps every row to the end; the numbers are the same."""
    env = make_env()
    pairs = plan_pairs(env, 60, rng)

    class Opaque(Greedy):
        def start(self, batch: int, goal: dict[str, torch.Tensor], rng: Any = None) -> dict[str, Any]:
            return {**super().start(batch, goal), "whole": object()}

    budget = 2 * int(pairs.shortest.max())
    cut = evaluate_agent(env, Greedy(Perfect(env)), pairs, budget)
    whole = evaluate_agent(env, Opaque(Perfect(env)), pairs, budget)
    assert np.array_equal(cut.steps, whole.steps)
    assert np.array_equal(cut.success_at_end, whole.success_at_end)
    assert cut.evaluations < whole.evaluations


def test_carries_are_cut_by_rows() -> None:
    carry = {"a": torch.arange(4), "b": (torch.zeros(4, 2), None, 3), "c": Struct(), "rng": torch.Generator()}
    assert can_select_rows(carry, 4)
    assert not can_select_rows({"a": torch.zeros(3)}, 4)
    assert not can_select_rows(object(), 4)
    cut = select_rows(carry, torch.tensor([1, 3]), 4)
    assert cut["a"].tolist() == [1, 3]
    assert cut["b"][0].shape == (2, 2)
    assert cut["rng"] is carry["rng"]


def test_zero_budget_is_refused(rng: torch.Generator) -> None:
    env = make_env("...")
    with pytest.raises(UserError, match="budget = 0"):
        evaluate_agent(env, NoOp(env.spec.action), plan_pairs(env, 2, rng), 0)


def test_the_figure_warns_of_nothing_where_no_pair_was_reached() -> None:
    arrays = {
        "planning.agents": np.array(["cem", "replay", "noop", "random"]),
        "planning.success": np.zeros((4, 3), bool),
        "planning.shortest": np.full(3, 5.0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert success_and_paths(arrays, "light") is not None


def _outcome(success: list[bool], ratio: float = 1.0) -> Outcome:
    wins = np.array(success)
    empty = np.zeros((len(wins), 1, 2))
    return Outcome(wins, wins, np.ones(len(wins)), np.where(wins, ratio, np.nan), empty, 1.0, 1.0)


def test_the_best_agent_is_measured_on_other_pairs_than_it_is_chosen_on(rng: torch.Generator) -> None:
    """Two agents that reach half of the goals at random: the better one on 4 pairs is no better on the other 12."""
    first = [True, True, True, False] + [True, False] * 6
    second = [True, False, False, False] + [True] * 12
    outcomes = {"a": _outcome(first), "b": _outcome(second), "random": _outcome([False] * 8 + [True] * 8)}
    best = _best(outcomes, ["a", "b"], rng)
    assert best["success"] == 0.5
    assert best["success"].baseline == pytest.approx(8 / 12)
    assert best["pairs"] == 12
    alone = _best(outcomes, ["a"], rng)
    assert (alone["success"], alone["pairs"]) == (9 / 16, 16)
    few = {name: outcome.rows(slice(1)) for name, outcome in outcomes.items()}
    assert isinstance(_best(few, ["a", "b"], rng)["success"], Refused)


def test_paths_to_a_few_near_goals_are_no_path_ratio(rng: torch.Generator) -> None:
    outcomes = {"a": _outcome([True] * 4 + [False] * 12), "random": _outcome([False] * 16)}
    assert "25 % of the goals" in _best(outcomes, ["a"], rng)["path_ratio"]


class Dithers(Greedy):
    """Greedy, with every second action at random: it draws."""

    name = "dithers"

    def start(self, batch: int, goal: dict[str, torch.Tensor], rng: Any = None) -> Any:
        return {**super().start(batch, goal), "rng": rng}

    def act(self, obs: Any, carry: Any, mode: str = "eval") -> tuple[torch.Tensor, Any, dict[str, Any]]:
        action, carry, info = super().act(obs, carry)
        other = self.model.action.sample((len(action),), carry["rng"])
        return torch.where(torch.rand(len(action), 1, generator=carry["rng"]) < 0.5, action, other), carry, info


def test_numbers_of_a_planner_do_not_depend_on_the_others() -> None:
    env = make_env()
    model = Perfect(env)

    def numbers(*names: str) -> dict[str, Any]:
        agents = {name: Dithers(model) for name in names}
        config = EvalConfig(pairs=40)
        context = Context(model, config, torch.Generator().manual_seed(3), env=env, agents=agents)
        outcome = suite.compute(registry.get("metric", "planning"), context)[0]
        return {key: entry for key, entry in outcome.items() if ".seconds" not in key}

    alone, both, other = numbers("a"), numbers("a", "b"), numbers("b", "a")
    shared = [key for key in alone if ".best." not in key]
    assert {key: both[key] for key in shared} == {key: alone[key] for key in shared}
    assert both == other, "the order of planners"
    assert 0 < alone["planning.a.success"]["value"] < 1
    assert alone["planning.random.success"] == both["planning.random.success"]
    assert both["planning.a.steps"] == both["planning.b.steps"], "all draw the same numbers"
