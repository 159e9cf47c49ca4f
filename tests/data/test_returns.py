"""Returns, counted while episodes are played, against the sums of what was recorded."""

from __future__ import annotations

import torch

from isochrone.core.types import Step
from isochrone.data.collect import Returns, collect, random_policy
from isochrone.data.replay import ReplayBuffer
from isochrone.envs.counter import Counter, CounterConfig


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_whole_episode_has_one_return() -> None:
    env = Counter(CounterConfig(length=3, size=4), num_envs=3)
    replay, watch = ReplayBuffer(env.spec, 3, 60), Returns()
    collect(env, random_policy(env.spec.action, rng()), replay, 180, rng(1), watch=watch)
    whole = sorted(round(float(e.reward.sum()), 4) for e in replay.episodes())
    returns = sorted(round(x, 4) for x in watch.drain())
    # the row after the last recorded one is watched too, and may end one episode more in an environment
    assert 0 <= len(returns) - len(whole) <= 3
    assert not [x for x in whole if x not in returns]
    assert watch.drain() == []


def row(reward: list[float], first: list[bool], last: list[bool]) -> Step:
    flags = [torch.tensor(x) for x in (first, last, last)]
    return Step({}, torch.tensor(reward), *flags)


def test_what_was_under_way_is_not_an_episode() -> None:
    watch = Returns()
    watch(row([5.0, 0.0], [False, True], [False, False]))
    watch(row([1.0, 2.0], [False, False], [True, True]))
    assert watch.drain() == [2.0]
    watch(row([0.0, 0.0], [True, True], [False, False]))
    watch.reset()
    watch(row([3.0, 4.0], [False, False], [True, True]))
    assert watch.drain() == []


def test_returns_not_drained_survive_a_checkpoint() -> None:
    watch, other = Returns(), Returns()
    watch(row([0.0], [True], [False]))
    watch(row([7.0], [False], [True]))
    other.load_state_dict(watch.state_dict())
    assert other.drain() == [7.0]
