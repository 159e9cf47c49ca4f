"""The counter says the truth about its rows."""

import pytest
import torch

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import VecEnv
from isochrone.envs.counter import Counter, CounterConfig, read


def test_rows_count(rng: torch.Generator) -> None:
    env = Counter(CounterConfig(length=2, size=4), 3)
    assert registry.get("env", "counter") is Counter
    assert isinstance(env, VecEnv)
    row = env.reset(0)
    assert row.first.all()
    assert (row.reward == 0).all()
    before, action, lengths = row, torch.zeros(3, 5), {}
    for _ in range(40):
        old, new = read(before.obs["state"]), read(row.obs["state"])
        if row is not before:
            ended = before.last
            assert torch.equal(row.first, ended)
            assert torch.equal(new.episode, old.episode + ended)
            assert torch.equal(new.time, torch.where(ended, 0, old.time + 1))
            assert torch.equal(new.action, torch.where(ended, -1, action.argmax(-1)))
            assert torch.allclose(row.reward, torch.where(ended, 0.0, new.time + new.action / 10))
        image = row.obs["image"]
        assert torch.equal(image[:, :, 0, 0].long(), torch.stack((new.episode, new.time, new.action + 1), -1))
        assert (image == image[:, :, :1, :1]).all()
        for b in row.last.nonzero().flatten().tolist():
            lengths[b, int(new.episode[b])] = int(new.time[b])
            assert bool(row.terminal[b]) == bool(new.episode[b] % 2)
        before, action = row, env.spec.action.sample((3,), rng)
        row = env.step(action)
    assert all(length == 2 + (b + e) % 3 for (b, e), length in lengths.items())
    assert len(lengths) > 15


def test_resume_and_refusals(rng: torch.Generator) -> None:
    a, b = Counter(CounterConfig(size=2), 2), Counter(CounterConfig(size=2), 2)
    a.step(a.spec.action.sample((2,), rng))
    b.load_state_dict(a.state_dict())
    action = a.spec.action.sample((2,), rng)
    assert torch.equal(a.step(action).obs["state"], b.step(action).obs["state"])
    with pytest.raises(UserError, match="must be"):
        a.step(torch.zeros(2, 5))
    with pytest.raises(UserError, match="at least 1"):
        Counter(CounterConfig(), 0)
