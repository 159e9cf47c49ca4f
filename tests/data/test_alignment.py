"""The time convention from the environment to the batch, by an environment that counts."""

import numpy as np
import pytest
import torch
from replaywindows import windows_at

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec, Step
from isochrone.data.collect import Collection, collect, random_policy
from isochrone.data.replay import ReplayBuffer


class Counting:
    """Environment i's episodes last 4 + i steps. Its state is (index, episode, t, sum of actions so far).

    The reward on arriving at row t is 100 * t plus the index of the action that led there: so every row says which
    action led to it.
    """

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.spec = Spec({"image": (3, 4, 4), "state": (4,)}, ActionSpec("discrete", 3, noop=0))
        self.seeds, self.taken = [], []

    def reset(self, seed):
        self.seeds.append(seed)
        self.episode, self.t, self.sum = (np.zeros(self.num_envs, np.int64) for _ in range(3))
        return self._step(np.zeros(self.num_envs))

    def step(self, action):
        index = action.argmax(-1).numpy()
        self.taken.append(index)
        over = self.t == 4 + np.arange(self.num_envs)  # the row shown before was `last`: this action leads nowhere
        self.episode = self.episode + over
        self.t = np.where(over, 0, self.t + 1)
        self.sum = np.where(over, 0, self.sum + index)
        return self._step(np.where(over, 0, 100 * self.t + index))

    def _step(self, reward):
        index = np.arange(self.num_envs)
        last = self.t == 4 + index
        state = np.stack([index, self.episode, self.t, self.sum], -1)
        image = np.broadcast_to((state[:, 2] * 16 + index)[:, None, None, None], (self.num_envs, 3, 4, 4))
        return Step(
            {"image": torch.from_numpy(image.astype(np.uint8)), "state": torch.from_numpy(state.astype(np.float32))},
            torch.from_numpy(np.asarray(reward, np.float32)),
            torch.from_numpy(self.t == 0),
            torch.from_numpy(last),
            torch.from_numpy(last & (index % 2 == 0)),
        )

    def close(self):
        pass


def recorded(steps=120, rows=64, num_envs=3, seed=0):
    env = Counting(num_envs)
    replay = ReplayBuffer(env.spec, num_envs, rows)
    rng = torch.Generator().manual_seed(seed)
    carry = collect(env, random_policy(env.spec.action, rng), replay, steps, rng)
    return env, replay, carry, rng


def test_every_row_of_every_window_keeps_the_convention():
    env, replay, _, rng = recorded(steps=600, rows=50)  # 200 rows per environment: the ring has wrapped
    batch = replay.sample(64, 12, rng)
    number, episode, t, total = batch.obs["state"].unbind(-1)  # (B, T) each
    index = batch.action.argmax(-1)  # (B, T)
    assert torch.equal(batch.first, t == 0)
    assert torch.equal(batch.last, t == 4 + number)
    assert torch.equal(batch.terminal, batch.last & (number % 2 == 0))
    assert torch.equal(batch.obs["image"][..., 0, 0, 0].float(), t * 16 + number)
    assert (batch.reward[batch.first] == 0).all()
    now, after, valid = batch.pairs()
    assert torch.equal(valid, episode[:, :-1] == episode[:, 1:])
    led = index[:, :-1]
    assert torch.equal((total[:, 1:] - total[:, :-1])[valid], led[valid].float())  # a[t] leads o[t] -> o[t+1]
    assert torch.equal(after.reward[valid], (100 * t[:, 1:] + led)[valid])  # r[t+1] belongs to the arrival at t+1
    assert (after.first[~valid] & now.last[~valid]).all()


def test_the_recorded_action_is_the_one_that_was_taken():
    env, replay, carry, _ = recorded(steps=90)
    for index in range(3):
        assert replay.column(index, "action").argmax(-1).tolist() == [taken[index] for taken in env.taken]
    assert carry.step.obs["state"][:, 2].tolist() != [0, 0, 0]  # the row after the last recorded one


def test_collection_in_pieces_equals_collection_at_once():
    _, whole, _, _ = recorded(steps=90)
    env = Counting(3)
    pieces, rng = ReplayBuffer(env.spec, 3, 64), torch.Generator().manual_seed(0)
    act, carry, done = random_policy(env.spec.action, rng), None, []
    for steps in (30, 3, 57):
        carry = collect(env, act, pieces, steps, rng, done.append, carry)
    assert isinstance(carry, Collection)
    assert len(env.seeds) == 1
    assert done[:11] == [*range(3, 31, 3), 3]
    for name in whole.fields:
        assert np.array_equal(whole.column(1, name), pieces.column(1, name)), name


@pytest.mark.parametrize("kind", ["function", "agent"])
def test_the_policy_learns_where_episodes_begin(kind):
    def count(obs, carry, mode):
        """The action is the number of rows since the last `first`, modulo 3."""
        carry = torch.where(obs["first"], 0, 0 if carry is None else carry + 1)
        return torch.nn.functional.one_hot(carry % 3, 3).float(), carry, {}

    class Counter:
        """The same as an agent: it ignores obs['first'] and relies on `restart`."""

        name, needs_goal = "counter", False

        def start(self, batch, goal=None, rng=None):
            assert isinstance(rng, torch.Generator)
            return torch.full((batch,), -1)

        def restart(self, carry, rows, goal=None):
            return torch.where(rows, -1, carry)

        def act(self, obs, carry, mode="eval"):
            assert mode == "eval"
            return count({"first": torch.zeros(len(carry), dtype=torch.bool)}, carry, mode)

    env = Counting(2)
    replay = ReplayBuffer(env.spec, 2, 40)
    policy = count if kind == "function" else Counter()
    carry = collect(env, policy, replay, 61, torch.Generator().manual_seed(0), mode="eval")
    assert len(replay) == 62  # whole rows of 2 environments
    batch = windows_at(replay, [0, 0, 0, 1, 1, 1], [0, 8, 16, 0, 8, 16], 8)
    assert torch.equal(batch.action.argmax(-1), batch.obs["state"][..., 2].long() % 3)
    assert carry.agent.shape == (2,)


def test_the_seed_comes_from_the_generator():
    assert recorded(seed=1)[0].seeds == recorded(seed=1)[0].seeds != recorded(seed=2)[0].seeds


def test_persistence():
    spec, rng = ActionSpec("continuous", 2), torch.Generator().manual_seed(0)
    act, carry, runs = random_policy(spec, rng, hold_steps=4), None, []
    for _ in range(200):
        action, carry, _ = act({"first": torch.zeros(50, dtype=torch.bool)}, carry, "explore")
        runs.append(action)
    same = (torch.stack(runs)[1:] == torch.stack(runs)[:-1]).all(-1).float().mean()
    assert abs(same - 0.75) < 0.02
    assert spec.contains(torch.stack(runs))
    fresh, _, _ = act({"first": torch.ones(50, dtype=torch.bool)}, carry, "explore")
    assert not (fresh == carry).all(-1).any()
    with pytest.raises(UserError, match="hold_steps = 0"):
        random_policy(spec, rng, hold_steps=0)


def test_zero_steps_and_another_number_of_environments_are_refused():
    env, rng = Counting(2), torch.Generator()
    act = random_policy(env.spec.action, rng)
    with pytest.raises(UserError, match="0 steps; ask for at least 1"):
        collect(env, act, ReplayBuffer(env.spec, 2, 8), 0, rng)
    with pytest.raises(UserError, match="2 environments but a replay of 3"):
        collect(env, act, ReplayBuffer(env.spec, 3, 8), 10, rng)
