"""The linear-Gaussian environment: rows, seeds, resume and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.types import Step
from isochrone.envs.linear import LinearConfig, LinearEnv

IDLE = torch.zeros(3, 1)


def make(**options: Any) -> LinearEnv:
    return LinearEnv(LinearConfig(**{"episode_length": 4, **options}), num_envs=3)


def rows(env: LinearEnv, count: int) -> list[Step]:
    return [env.step(IDLE) for _ in range(count)]


def test_episodes_begin_and_end_where_they_say() -> None:
    env = make()
    steps = [env.reset(0), *rows(env, 9)]
    assert [bool(s.first.all()) for s in steps] == [True, False, False, False, False] * 2
    assert [bool(s.last.all()) for s in steps] == [False, False, False, False, True] * 2
    assert not any(bool(s.terminal.any()) or bool(s.reward.any()) for s in steps)


def test_it_follows_its_system() -> None:
    """Covariance of the first and second observation over many episodes, against A, Q, H and R."""
    env = LinearEnv(LinearConfig(system=3), num_envs=40_000)
    s = env.system
    first, second = (x.obs["state"].double() for x in (env.reset(1), env.step(torch.zeros(40_000, 1))))
    torch.testing.assert_close(first.T.cov(), s.h @ s.q @ s.h.T + s.r, atol=0.1, rtol=0.05)
    later = s.h @ (s.a @ s.q @ s.a.T + s.q) @ s.h.T + s.r
    torch.testing.assert_close(second.T.cov(), later, atol=0.1, rtol=0.05)
    torch.testing.assert_close(second.T @ first / len(first), s.h @ s.a @ s.q @ s.h.T, atol=0.1, rtol=0.05)


def test_the_same_seed_is_the_same_run_and_a_saved_one_goes_on() -> None:
    one, two = make(), make()
    assert torch.equal(one.reset(7).obs["state"], two.reset(7).obs["state"])
    rows(one, 2)
    saved = one.state_dict()
    two.load_state_dict(saved)
    for a, b in zip(rows(one, 6), rows(two, 6), strict=True):
        assert torch.equal(a.obs["state"], b.obs["state"])
        assert torch.equal(a.first, b.first)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UserError, match="must be"):
        make().step(torch.full((3, 1), 2.0))
    with pytest.raises(UserError, match="obs_size = 1"):
        make(diagonal=True, states=2, obs_size=1)
    with pytest.raises(UserError, match="same num_envs"):
        LinearEnv(LinearConfig(), num_envs=2).load_state_dict(make().state_dict())
