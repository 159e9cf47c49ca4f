"""Ours as Gymnasium environments."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from isochrone.core.errors import UserError
from isochrone.envs.counter import Counter, CounterConfig
from isochrone.envs.to_gymnasium import WHITEBOX_ID, VectorAdapter
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig


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
    assert a.shape == (64, 64, 3) and (a == 255).sum() == 48 and info["position"].shape == (2,)
    flags = [env.step(0)[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    other, _ = env.reset()
    again, _ = env.reset(seed=5)
    assert np.array_equal(a, again) and not np.array_equal(a, other)


def test_tasks_reward_and_end_episodes() -> None:
    env = gymnasium.make(WHITEBOX_ID, map="empty", task="reach", start="3,3", goal="5,3", episode_length=3)
    env.reset(seed=0)
    assert [env.step(4)[1:4] for _ in range(3)] == [(0.0, False, False), (1.0, False, False), (0.0, False, True)]
    env = gymnasium.make(WHITEBOX_ID, map="corridor", task="collect", items=1, start="0,7", episode_length=16)
    env.reset(seed=0)
    rows = [env.step(4)[1:4]]
    while not any(rows[-1][1:]):
        rows.append(env.step(4)[1:4])
    assert rows[-1] == (1.0, True, False) and all(row == (0.0, False, False) for row in rows[:-1])


def test_bad_options_and_actions() -> None:
    with pytest.raises(UserError, match="did you mean 'momentum'"):
        gymnasium.make(WHITEBOX_ID, momentun=True)
    env = gymnasium.make(WHITEBOX_ID).unwrapped
    env.reset(seed=0)
    with pytest.raises(UserError, match="out of range"):
        env.step(5)


def test_vector_adapter() -> None:
    env = VectorAdapter(WhiteBox(WhiteBoxConfig(map="pipes", episode_length=2), 3))
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    obs, info = env.reset(seed=1)
    assert env.observation_space.contains(obs) and info == {}
    assert np.array_equal(obs, env.reset(seed=1)[0])
    env.action_space.seed(0)
    cut = []
    for _ in range(4):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert obs.shape == (3, 3, 64, 64) and reward.shape == (3,) and not terminated.any()
        cut.append(bool(truncated.all()))
    assert cut == [False, True, False, False]
    env.reset()
    env.close()


def test_vector_adapter_with_several_observations_and_continuous_actions() -> None:
    env = VectorAdapter(Counter(CounterConfig(size=4, length=1), 2))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and set(obs) == {"image", "state"}
    ends = [env.step(np.array([3, 1]))[2:4] for _ in range(6)]
    assert any(t.any() for t, _ in ends) and any(c.any() for _, c in ends)
    assert not any((t & c).any() for t, c in ends)
    smooth = VectorAdapter(WhiteBox(WhiteBoxConfig(actions="continuous"), 2))
    smooth.reset(seed=[4, 5])
    smooth.step(smooth.action_space.sample())
    with pytest.raises(UserError, match="is not legal"):
        smooth.step(np.full((2, 2), 1.5))
