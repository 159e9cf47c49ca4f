"""The baseline agents: random, no-op, replay."""

import pytest
import torch

from isochrone.agents.baselines import NoOp, Random, Replay
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import Agent, AgentComponent
from isochrone.core.types import ActionSpec, Spec

KINDS = {"discrete": ActionSpec("discrete", 5, noop=4), "continuous": ActionSpec("continuous", 2)}
OBS = {"image": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}
ROWS = torch.tensor([False, True, False])


def run(agent, batch, steps, rng=None, restart=()):
    """Actions (B, T, A); the rows ROWS are restarted before the steps in `restart`."""
    carry, out = agent.start(batch, rng=rng), []
    for step in range(steps):
        if step in restart:
            carry = agent.restart(carry, ROWS)
        action, carry, info = agent.act(OBS, carry)
        assert info == {}
        out.append(action)
    return torch.stack(out, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_random_is_uniform_and_seeded(kind):
    action = KINDS[kind]
    sampled = run(Random(action), 3, 200, torch.Generator().manual_seed(0))
    assert action.contains(sampled)
    assert not torch.equal(sampled[0], sampled[1])
    expected = torch.full((action.size,), 0.2 if action.discrete else 0.0)
    torch.testing.assert_close(sampled.mean((0, 1)), expected, atol=0.1, rtol=0)
    again = run(Random(action), 3, 200, torch.Generator().manual_seed(0))
    assert torch.equal(sampled, again)
    assert torch.equal(run(Random(action, Random.Config(seed=0)), 3, 200), sampled)


def test_random_repeats_its_actions_until_a_restart():
    agent = Random(KINDS["continuous"], Random.Config(hold_steps=3))
    actions = run(agent, 3, 9, restart=(4,))
    assert torch.equal(actions[:, 0], actions[:, 2])
    assert not torch.equal(actions[:, 2], actions[:, 3])
    assert torch.equal(actions[0, 3], actions[0, 5])
    assert not torch.equal(actions[1, 3], actions[1, 4])
    assert torch.equal(actions[1, 4], actions[1, 6])


@pytest.mark.parametrize("kind", KINDS)
def test_noop(kind):
    action = KINDS[kind]
    assert torch.equal(run(NoOp(action), 3, 4, restart=(2,)), action.idle((3, 4)))


@pytest.mark.parametrize("kind", KINDS)
def test_replay_plays_the_recording_then_the_noop(kind, rng):
    action = KINDS[kind]
    recorded = action.sample((3, 4), rng)
    played = run(Replay(action, recorded), 3, 6, restart=(4,))
    assert torch.equal(played[:, :4], recorded)
    assert torch.equal(played[[0, 2], 4:], action.idle((2, 2)))
    assert torch.equal(played[1, 4:], recorded[1, :2])
    assert torch.equal(run(Replay(action, recorded[:, :0]), 3, 2), action.idle((3, 2)))


def test_replay_refuses_illegal_actions_and_another_number_of_rows(rng):
    action = KINDS["continuous"]
    with pytest.raises(UserError, match="not legal"):
        Replay(action, torch.full((3, 4, 2), 1.5))
    with pytest.raises(UserError, match="not legal"):
        Replay(action, torch.full((3, 4, 2), torch.nan))
    with pytest.raises(UserError, match="not legal"):
        Replay(KINDS["discrete"], torch.full((3, 4, 5), 0.2))
    with pytest.raises(UserError, match="has 3 recordings, but was started with 2 rows"):
        Replay(action, action.sample((3, 4), rng)).start(2)


def test_random_refuses_zero_hold_steps():
    with pytest.raises(UserError, match="random.hold_steps = 0: must be at least 1"):
        Random(KINDS["discrete"], Random.Config(hold_steps=0))


@pytest.mark.parametrize("agent", [NoOp, Random], ids=lambda cls: cls.name)
def test_registered_baselines_satisfy_the_protocol(agent):
    class Learner:
        model = torch.nn.Module()

    Learner.model.action = KINDS["discrete"]
    assert registry.get("agent", agent.name) is agent
    made = agent.build(agent.Config(), Learner)
    assert isinstance(made, AgentComponent)
    assert made.action == KINDS["discrete"]
    assert agent.modules(agent.Config(), Learner.model, Spec({}, made.action)) == {}


def test_replay_satisfies_the_protocol():
    assert isinstance(Replay(KINDS["continuous"], torch.zeros(1, 2, 2)), Agent)
