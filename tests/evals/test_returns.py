"""What agents earn: whole episodes, the floors, and the oracle's policy that earns exactly the oracle's return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tinyworld import tiny
from torch import Tensor

from isochrone.envs.counter import Counter, CounterConfig
from isochrone.envs.whitebox import WhiteBoxConfig, WhiteBoxWorld
from isochrone.envs.whitebox.oracle import oracle_action, oracle_return
from isochrone.evals.cost import TRIES, cost
from isochrone.evals.returns import earned, played


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Always:
    """One action, whatever is seen."""

    def __init__(self, index: int, actions: int = 5) -> None:
        self.index, self.actions = index, actions

    def start(self, batch: int, rng: Any = None) -> int:
        return batch

    def act(self, obs: Any, carry: int, mode: str) -> tuple[Tensor, int, dict[str, Any]]:
        assert mode == "eval"
        return torch.nn.functional.one_hot(torch.full((carry,), self.index), self.actions).float(), carry, {}


class Knows(Always):
    """Plays the oracle's actions."""

    def __init__(self, world: WhiteBoxWorld) -> None:
        self.world = world

    def act(self, obs: Any, carry: int, mode: str) -> tuple[Tensor, int, dict[str, Any]]:
        return oracle_action(self.world), carry, {}


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
    world = WhiteBoxWorld(WhiteBoxConfig(**options), num_envs=12)
    found = earned(world, {"knows": Knows(world)}, 3, rng(), best=oracle_return)
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

    def imagine(*given: Any) -> Any:
        plays.append(given)
        now[0] += 2.0
        return inner.imagine(model, *given)

    def decode(feat: Tensor) -> Tensor:
        draws.append(feat)
        now[0] += 5.0 + (100.0 if len(draws) == 2 else 0.0)  # one slow try moves no median
        return inner.decode(model, feat)

    model.imagine, model.decode = imagine, decode
    assert cost(model, lambda: now[0]) == {"cost.frames": 3.5}
    assert len(plays) == 2 * len(draws) == 2 * (TRIES + 1) and len(draws[0]) == 64 * 12
