"""The floors: random, noop, replay."""

import pytest
import torch

from isochrone.agents.noop import Noop
from isochrone.agents.random import Random
from isochrone.agents.replay import Replay
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import Agent
from isochrone.core.types import ActionSpec

KINDS = {"discrete": ActionSpec("discrete", 5, noop=4), "continuous": ActionSpec("continuous", 2)}
OBS = {"image": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}


def run(agent, batch, steps, rng=None):
    carry, out = agent.start(batch, rng=rng), []
    for _ in range(steps):
        action, carry, info = agent.act(OBS, carry)
        assert info == {}
        out.append(action)
    return torch.stack(out, 1)  # (B, T, A)


@pytest.mark.parametrize("kind", KINDS)
def test_random(kind):
    action = KINDS[kind]
    drawn = run(Random(Random.Config(), action), 3, 200, torch.Generator().manual_seed(0))
    assert action.contains(drawn)
    assert not torch.equal(drawn[0], drawn[1])
    expected = torch.full((action.size,), 0.2 if action.discrete else 0.0)
    torch.testing.assert_close(drawn.mean((0, 1)), expected, atol=0.1, rtol=0)
    again = run(Random(Random.Config(), action), 3, 200, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    assert torch.equal(run(Random(Random.Config(seed=0), action), 3, 200), drawn)


def test_random_holds():
    drawn = run(Random(Random.Config(hold=3), KINDS["continuous"]), 3, 9)
    assert torch.equal(drawn[:, 0], drawn[:, 2]) and torch.equal(drawn[:, 3], drawn[:, 5])
    assert not torch.equal(drawn[:, 2], drawn[:, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_noop(kind):
    action = KINDS[kind]
    assert torch.equal(run(Noop(Noop.Config(), action), 3, 4), action.idle((3, 4)))


@pytest.mark.parametrize("kind", KINDS)
def test_replay_repeats_the_recording_then_rests(kind, rng):
    action = KINDS[kind]
    recorded = action.sample((3, 4), rng)
    played = run(Replay(Replay.Config(), action, recorded), 3, 6)
    assert torch.equal(played[:, :4], recorded)
    assert torch.equal(played[:, 4:], action.idle((3, 2)))


def test_replay_refuses(rng):
    action = KINDS["continuous"]
    with pytest.raises(UserError, match="not legal"):
        Replay(Replay.Config(), action, torch.full((3, 4, 2), 1.5))
    with pytest.raises(UserError, match="not legal"):
        Replay(Replay.Config(), action, torch.full((3, 4, 2), torch.nan))
    with pytest.raises(UserError, match="not legal"):
        Replay(Replay.Config(), KINDS["discrete"], torch.full((3, 4, 5), 0.2))
    with pytest.raises(UserError, match="holds 3 recordings; asked for 2"):
        Replay(Replay.Config(), action, action.sample((3, 4), rng)).start(2)


def test_random_refuses_hold_zero():
    with pytest.raises(UserError, match="random.hold = 0: must be at least 1"):
        Random(Random.Config(hold=0), KINDS["discrete"])


@pytest.mark.parametrize("name", registry.names("agent"))
def test_every_agent_is_one(name):
    cls = registry.get("agent", name)
    assert cls.Config.name == name
    assert callable(cls.start) and callable(cls.act)
    assert isinstance(Random(Random.Config(), KINDS["discrete"]), Agent)
