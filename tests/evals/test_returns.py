"""Returns: whole episodes, the baselines, and the oracle's policy, which earns exactly the oracle's return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import best_action
from perfect import compute
from tinymodel import tiny
from torch import Tensor

from isochrone.envs.counter import Counter, CounterConfig
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig
from isochrone.evals.metrics.returns import REPEATS, PlannedReturnTracker, evaluate_returns, play_episodes


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Always:
    """One action, whatever is seen."""

    def __init__(self, index: int, actions: int = 5) -> None:
        self.index, self.actions = index, actions

    name, needs_goal = "always", False

    def start(self, batch: int, goal: Any = None, rng: Any = None) -> int:
        return batch

    def restart(self, carry: int, rows: Tensor, goal: Any = None) -> int:
        return carry

    def act(self, obs: Any, carry: int, mode: str = "eval") -> tuple[Tensor, int, dict[str, Any]]:
        assert mode == "eval"
        return torch.nn.functional.one_hot(torch.full((carry,), self.index), self.actions).float(), carry, {}


class Knows(Always):
    """Plays the oracle's actions."""

    def __init__(self, env: WhiteBox) -> None:
        self.env = env

    def act(self, obs: Any, carry: int, mode: str = "eval") -> tuple[Tensor, int, dict[str, Any]]:
        return best_action(self.env), carry, {}


def test_the_counting_world_pays_what_it_says() -> None:
    """Arriving at t by action a pays t + a / 10; worlds end at different times and then wait."""
    env = Counter(CounterConfig(length=4, size=4), num_envs=6)
    for action in (0, 3):
        lengths = [4 + env % 3 for env in range(6)]
        expected = [sum(t + action / 10 for t in range(1, n + 1)) for n in lengths]
        torch.testing.assert_close(play_episodes(env, Always(action), 0), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reach", "avoid", "collect"])
def test_the_oracles_policy_earns_the_best_return(task: str) -> None:
    options: Any = {"map": "four-rooms", "task": task, "episode_length": 30}
    env = WhiteBox(WhiteBoxConfig(**options), num_envs=12)
    found = evaluate_returns(env, {"knows": Knows(env)}, 3, rng())
    assert found["share"] == pytest.approx(1.0)
    assert found["oracle"] == pytest.approx(found["knows"])
    assert found["random"] < found["knows"]
    assert found["noop"] < found["knows"]
    assert found["knows"].baseline == found["random"]
    assert found["episodes"].shape == (1, 12)
    low, high = found["knows"].interval
    assert low <= found["knows"] <= high


def test_the_decode_cost_is_time_with_frames_over_time_without() -> None:
    model, now = tiny("rssm"), [0.0]
    plays, draws = [], []
    inner = type(model)

    def imagine(*args: Any) -> Any:
        plays.append(args)
        now[0] += 2.0
        return inner.imagine(model, *args)

    def decode(state: Any) -> Tensor:
        draws.append(state.h)
        now[0] += 5.0 + (100.0 if len(draws) == 2 else 0.0)  # one slow try moves no median
        return inner.decode(model, state)

    model.imagine, model.decode = imagine, decode
    assert compute("decode_cost", model, clock=lambda: now[0]) == {"ratio": 3.5}
    assert len(plays) == 2 * len(draws) == 2 * (REPEATS + 1)
    assert len(draws[0]) == 64 * 12


class Boasts(Always):
    """Plans two actions ahead, every second time, and promises ten."""

    return_discount = 1.0

    def start(self, batch: int, goal: Any = None, rng: Any = None) -> Any:
        self.calls = 0
        return super().start(batch)

    def act(self, obs: Any, carry: int, mode: str = "eval") -> Any:
        action, carry, _ = super().act(obs, carry, mode)
        self.calls += 1
        due = self.calls % 2 == 1
        return action, carry, {"plan": torch.zeros(carry, 2, 5), "cost": torch.full((carry,), -10.0), "replanned": due}


def test_planned_return_against_realized_return() -> None:
    """Arriving at t pays t here; the worlds end after 4, 5 and 6 actions, and plans begin after 0, 2 and 4."""
    env = Counter(CounterConfig(length=4, size=4), num_envs=3)
    found = evaluate_returns(env, {"boasts": Boasts(0)}, 0, rng())
    came = ((1 + 2 + 3 + 4) / 2, (1 + 2 + 3 + 4) / 2, (1 + 2 + 3 + 4 + 5 + 6) / 3)  # 5 comes alone in the second env
    assert found["planned"] == pytest.approx(10)
    assert found["realized"] == pytest.approx(sum(came) / 3)
    assert found["plan_optimism"] == pytest.approx(10 - sum(came) / 3)
    low, high = found["plan_optimism"].interval
    assert low <= found["plan_optimism"] <= high
    assert "planned" not in evaluate_returns(env, {"quiet": Always(0)}, 0, rng())


def test_planned_returns_are_discounted_and_end_where_an_episode_breaks() -> None:
    tracker = PlannedReturnTracker(0.5)
    for step in range(4):
        tracker.record_plan({"plan": torch.zeros(2, 2, 1), "cost": torch.tensor([-1.0, -3.0]), "replanned": True})
        tracker.record_reward(torch.tensor([4.0, 8.0]), torch.tensor([True, step == 0]))
    found = tracker.summary(np.random.default_rng(0))
    assert (found["planned"], found["realized"], found["plan_optimism"]) == (1.0, 6.0, -5.0)  # the second env broke
    assert PlannedReturnTracker().summary(np.random.default_rng(0)) == {}


class Wanders(Always):
    """Random actions by the generator that it is given."""

    name = "wanders"

    def start(self, batch: int, goal: Any = None, rng: Any = None) -> Any:
        return batch, rng

    def act(self, obs: Any, carry: Any, mode: str = "eval") -> tuple[Tensor, Any, dict[str, Any]]:
        batch, draw = carry
        return torch.nn.functional.one_hot(torch.randint(5, (batch,), generator=draw), 5).float(), carry, {}


def test_returns_of_an_agent_do_not_depend_on_the_others() -> None:
    env = Counter(CounterConfig(length=4, size=4), num_envs=6)

    def found(*names: str) -> dict[str, Any]:
        return evaluate_returns(env, {name: Wanders(0) for name in names}, 0, rng(3))

    alone, both, other = found("a"), found("a", "b"), found("b", "a")
    for name in ("a", "random", "noop"):
        assert alone[name] == both[name] == other[name]
        assert alone[name].interval == both[name].interval == other[name].interval
