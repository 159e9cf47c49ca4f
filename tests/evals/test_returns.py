"""What agents earn: whole episodes, the floors, and the oracle's policy that earns exactly the oracle's return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import best_action
from tinyworld import tiny
from torch import Tensor

from isochrone.envs.counter import Counter, CounterConfig
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig
from isochrone.evals.returns import TRIES, Promises, cost, earned, played


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

    def __init__(self, world: WhiteBox) -> None:
        self.world = world

    def act(self, obs: Any, carry: int, mode: str = "eval") -> tuple[Tensor, int, dict[str, Any]]:
        return best_action(self.world), carry, {}


def test_the_counting_world_pays_what_it_says() -> None:
    """Arriving at t by action a pays t + a / 10; worlds end at different times and then wait."""
    env = Counter(CounterConfig(length=4, size=4), num_envs=6)
    for action in (0, 3):
        lengths = [4 + world % 3 for world in range(6)]
        expected = [sum(t + action / 10 for t in range(1, n + 1)) for n in lengths]
        torch.testing.assert_close(played(env, Always(action), 0), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("task", ["reach", "avoid", "collect"])
def test_the_oracle_is_earned_and_floors_stand_beside_it(task: str) -> None:
    options: Any = {"map": "four-rooms", "task": task, "episode_length": 30}
    world = WhiteBox(WhiteBoxConfig(**options), num_envs=12)
    found = earned(world, {"knows": Knows(world)}, 3, rng())
    assert found["return.share"] == pytest.approx(1.0)
    assert found["return.oracle"] == pytest.approx(found["return.knows"])
    assert found["return.random"] < found["return.knows"] and found["return.noop"] < found["return.knows"]
    assert found["return.knows.floor"] == found["return.random"]
    assert found["return.episodes"].shape == (1, 12)
    low, high = found["return.knows.interval"]
    assert low <= found["return.knows"] <= high


def test_the_price_of_frames_is_time_with_them_over_time_without() -> None:
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
    assert cost(model, lambda: now[0]) == {"cost.frames": 3.5}
    assert len(plays) == 2 * len(draws) == 2 * (TRIES + 1) and len(draws[0]) == 64 * 12


class Boasts(Always):
    """Plans two actions ahead, every second time, and promises ten."""

    cost: Any = type("Sum", (), {"discount": 1.0})

    def start(self, batch: int, rng: Any = None) -> Any:
        self.calls = 0
        return super().start(batch)

    def act(self, obs: Any, carry: int, mode: str = "eval") -> Any:
        action, carry, _ = super().act(obs, carry, mode)
        self.calls += 1
        due = self.calls % 2 == 1
        return action, carry, {"plan": torch.zeros(carry, 2, 5), "cost": torch.full((carry,), -10.0), "replanned": due}


def test_what_plans_promise_stands_beside_what_came() -> None:
    """Arriving at t pays t here; the worlds end after 4, 5 and 6 actions, and plans begin after 0, 2 and 4."""
    env = Counter(CounterConfig(length=4, size=4), num_envs=3)
    found = earned(env, {"boasts": Boasts(0)}, 0, rng())
    came = ((1 + 2 + 3 + 4) / 2, (1 + 2 + 3 + 4) / 2, (1 + 2 + 3 + 4 + 5 + 6) / 3)  # 5 comes alone in the second world
    assert found["return.promised"] == pytest.approx(10) and found["return.came"] == pytest.approx(sum(came) / 3)
    assert found["return.overpromise"] == pytest.approx(10 - sum(came) / 3)
    low, high = found["return.overpromise.interval"]
    assert low <= found["return.overpromise"] <= high
    assert "return.promised" not in earned(env, {"quiet": Always(0)}, 0, rng())


def test_promises_are_discounted_and_end_where_an_episode_breaks() -> None:
    heard = Promises(0.5)
    for step in range(4):
        heard.made({"plan": torch.zeros(2, 2, 1), "cost": torch.tensor([-1.0, -3.0]), "replanned": True})
        heard.came(torch.tensor([4.0, 8.0]), torch.tensor([True, step == 0]))
    found = heard.kept(np.random.default_rng(0))
    assert (found["promised"], found["came"], found["overpromise"]) == (1.0, 6.0, -5.0)  # the second world broke
    assert Promises().kept(np.random.default_rng(0)) == {}
