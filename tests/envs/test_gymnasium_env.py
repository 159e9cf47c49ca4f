"""Ours as Gymnasium environments."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from isochrone.core.errors import UserError
from isochrone.envs.to_gymnasium import WHITEBOX_ID


@pytest.mark.parametrize(
    "options",
    [{}, {"actions": "continuous", "momentum": True}, {"map": "pipes", "noise": 0.5}, {"task": "collect"}],
    ids=str,
)
def test_gymnasiums_own_checker(options: dict) -> None:
    env = gymnasium.make(WHITEBOX_ID, render_mode="rgb_array", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_episodes_are_cut_off_and_seeded() -> None:
    env = gymnasium.make(WHITEBOX_ID, map="maze", episode_length=3)
    a, info = env.reset(seed=5)
    assert a.shape == (64, 64, 3)
    assert (a == 255).sum() == 48
    assert info["position"].shape == (2,)
    flags = [env.step(0)[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    other, _ = env.reset()
    again, _ = env.reset(seed=5)
    assert np.array_equal(a, again)
    assert not np.array_equal(a, other)


def test_tasks_reward_and_end_episodes() -> None:
    env = gymnasium.make(WHITEBOX_ID, map="empty", task="reach", start="3,3", goal="5,3", episode_length=3)
    env.reset(seed=0)
    assert [env.step(4)[1:4] for _ in range(3)] == [(0.0, False, False), (1.0, False, False), (0.0, False, True)]
    env = gymnasium.make(WHITEBOX_ID, map="corridor", task="collect", items=1, start="0,7", episode_length=16)
    env.reset(seed=0)
    rows = [env.step(4)[1:4]]
    while not any(rows[-1][1:]):
        rows.append(env.step(4)[1:4])
    assert rows[-1] == (1.0, True, False)
    assert all(row == (0.0, False, False) for row in rows[:-1])


def test_bad_options_and_actions() -> None:
    with pytest.raises(UserError, match="did you mean 'momentum'"):
        gymnasium.make(WHITEBOX_ID, momentun=True)
    env = gymnasium.make(WHITEBOX_ID).unwrapped
    env.reset(seed=0)
    with pytest.raises(UserError, match="out of range"):
        env.step(5)
