"""The ring against a list, and its windows against its rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replaywindows import windows_at
from ringrows import SMALL, SPEC, assert_window_is_true, episode_at, fill, step_at

from isochrone.core.errors import UserError
from isochrone.data.replay import ReplayBuffer, row_bytes, split_envs


@pytest.mark.parametrize("spec", [SPEC, SMALL], ids=["large", "small"])
@pytest.mark.parametrize(
    "num_envs,rows,resume_margin,steps", [(1, 8, 0, 5), (3, 8, 0, 8), (3, 8, 0, 21), (2, 8, 5, 30), (4, 7, 3, 300)]
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_windows_are_what_was_written(spec, num_envs, rows, resume_margin, steps, on_disk, tmp_path):
    replay = ReplayBuffer(spec, num_envs, rows, tmp_path / "ring" if on_disk else None, resume_margin)
    fill(replay, steps)
    assert len(replay) == num_envs * min(rows, steps)
    assert replay.total == num_envs * steps
    batch = replay.sample(32, 4, torch.Generator().manual_seed(0))
    assert batch.shape == (32, 4)
    assert batch.obs["image"].dtype == torch.uint8
    assert_window_is_true(batch, spec)
    times = batch.obs["state"][..., 1]
    # never across the cursor
    assert times.min() >= max(0, steps - rows)
    assert times.max() < steps


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(0, 4),
    st.lists(st.one_of(st.just(None), st.tuples(st.integers(0, 2), st.integers(2, 14))), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_ring_equals_a_list(num_envs, rows, resume_margin, actions, length):
    """Any order of `add` (None) and `extend` (env, length): the same rows as a Python list cut to its last `rows`."""
    replay, lists, clock = (
        ReplayBuffer(SMALL, num_envs, rows, resume_margin=resume_margin),
        [[] for _ in range(num_envs)],
        0,
    )
    for action in actions:
        if action is None:
            replay.add(*step_at(SMALL, num_envs, clock))
            for env in range(num_envs):
                lists[env].append((env, clock))
            clock += 1
        else:
            env, count = action[0] % num_envs, action[1]
            replay.extend(env, episode_at(SMALL, env, count, clock))
            lists[env] += [(env, clock + t) for t in range(count)]
            clock += count
    lists = [rows_[-rows:] for rows_ in lists]
    assert replay.stored().tolist() == [len(rows_) for rows_ in lists]
    for env, rows_ in enumerate(lists):
        assert [tuple(r) for r in replay.column(env, "obs/state").tolist()] == rows_
    where = [(env, s) for env, rows_ in enumerate(lists) for s in range(len(rows_) - length + 1)]
    assert replay.starts(length).tolist() == [max(len(rows_) - length + 1, 0) for rows_ in lists]
    if where:
        batch = windows_at(replay, [env for env, _ in where], [s for _, s in where], length)
        want = [lists[env][s : s + length] for env, s in where]
        assert [[tuple(r) for r in window] for window in batch.obs["state"].tolist()] == want


def test_starts_are_uniform_and_follow_the_generator():
    replay = ReplayBuffer(SMALL, 3, 20)
    fill(replay, 10)
    replay.extend(1, episode_at(SMALL, 1, 6, 10))  # histories of different length: 10, 16, 10
    rng = torch.Generator().manual_seed(3)
    draws = 14_000
    state = replay.sample(draws, 3, rng).obs["state"][:, 0]
    counts = {}
    for env, time in state.tolist():
        counts[env, time] = counts.get((env, time), 0) + 1
    places = 8 + 14 + 8
    assert len(counts) == places
    expected = draws / places
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    assert chi2 < 70  # 29 degrees of freedom: p < 1e-4
    one, two = (replay.sample(50, 3, torch.Generator().manual_seed(8)).obs["state"] for _ in range(2))
    other = replay.sample(50, 3, torch.Generator().manual_seed(9)).obs["state"]
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_pairs_do_not_cross_episodes():
    replay = ReplayBuffer(SMALL, 2, 32)
    fill(replay, 32, period=5)
    pairs = replay.sample(64, 9, torch.Generator().manual_seed(0)).pairs()
    now, after = pairs.now.obs["state"][..., 1], pairs.next.obs["state"][..., 1]
    assert torch.equal(after, now + 1)
    assert torch.equal(pairs.valid, (now % 5) != 4)
    assert (pairs.next.reward[pairs.valid] % 1000 == after[pairs.valid]).all()  # reward belongs to the arrival


def test_a_sampled_batch_is_not_overwritten_by_later_ones():
    """Output buffers are used again, but only when nothing looks at them, not even through a slice."""
    replay = ReplayBuffer(SPEC, 2, 32)
    fill(replay, 32)
    rng = torch.Generator().manual_seed(0)
    frames, copies = [], []
    for i in range(12):
        image = replay.sample(8, 8, rng).obs["image"]
        frames.append(image[:, 2:5] if i % 2 else image.numpy())
        copies.append(np.asarray(frames[-1]).copy())
        for _ in range(3):
            replay.sample(8, 8, rng)
    for now, then in zip(frames, copies, strict=True):
        assert np.array_equal(np.asarray(now), then)
    places = {replay.sample(8, 8, rng).obs["image"].data_ptr() for _ in range(30)}
    assert len(places) <= 4  # and they are indeed used again


def test_envs_restrict_sampling_and_split_is_disjoint():
    replay = ReplayBuffer(SMALL, 10, 12)
    fill(replay, 12)
    train, holdout = split_envs(10, 0.2)
    assert len(holdout) == 2
    assert not set(train) & set(holdout)
    assert sorted(train + holdout) == list(range(10))
    envs = replay.sample(300, 4, torch.Generator().manual_seed(0), envs=train).obs["state"][..., 0]
    assert set(envs.unique().tolist()) == set(train)
    assert split_envs(10, 0.2) == (train, holdout)
    assert split_envs(2, 0.001)[1]
    with pytest.raises(UserError, match="at least 2 environments"):
        split_envs(1)
    with pytest.raises(UserError, match="between 0 and 1"):
        split_envs(4, 1.0)


def test_a_split_leaves_windows_on_both_sides():
    equal = split_envs(10, 0.2)
    assert split_envs(10, 0.2, windows=np.full(10, 7)) == equal, "as without, where all are alike"
    windows = np.array([51, 41, 31] + [0] * 7)
    train, holdout = split_envs(10, 0.1, windows=windows)
    assert holdout == [2]
    assert sorted(train + holdout) == list(range(10))
    assert split_envs(2, 0.1, windows=np.array([4000, 620])) == ([0], [1])
    assert split_envs(2, 0.1, windows=np.array([620, 4000])) == ([1], [0])
    with pytest.raises(UserError, match="1 of 3 histories in the replay holds a window.*shorten train.length"):
        split_envs(3, 0.1, windows=np.array([0, 9, 0]))


def test_a_window_that_is_too_long_names_the_longest_history_of_those_asked_for():
    replay = ReplayBuffer(SMALL, 2, 12)
    replay.extend(0, episode_at(SMALL, 0, 12))
    replay.extend(1, episode_at(SMALL, 1, 4))
    with pytest.raises(UserError, match=r"no window of 6 rows yet \(the longest history has 4\)"):
        replay.sample(2, 6, torch.Generator(), envs=[1])


def test_episodes_come_back_whole():
    replay = ReplayBuffer(SMALL, 2, 13)
    fill(replay, 28)  # rows 15..27 are there: 15-19 and 20-24 are whole, 25-27 is not finished
    episodes = list(replay.episodes())
    assert [(int(e.obs["state"][0, 0]), int(e.obs["state"][0, 1]), len(e)) for e in episodes] == [
        (env, time, 5) for env in (0, 1) for time in (15, 20)
    ]
    assert all(e.first.tolist() == [True, False, False, False, False] and e.last[-1] for e in episodes)
    fill(replay, 3, start=28)  # now 18..30: 15-19 has lost its beginning
    assert [int(e.obs["state"][0, 1]) for e in replay.episodes([1])] == [20, 25]


def test_a_long_episode_keeps_its_end():
    replay = ReplayBuffer(SMALL, 1, 6, resume_margin=2)
    replay.extend(0, episode_at(SMALL, 0, 50))
    assert replay.column(0, "obs/state")[:, 1].tolist() == [44, 45, 46, 47, 48, 49]
    assert replay.total == 50


# --- sizes and bad input ---


def test_size():
    assert row_bytes(SPEC) == 3 * 40 * 40 + 8 + 12 + 4 + 3 + 8 + 4
    replay = ReplayBuffer(SPEC, 4, 47, resume_margin=3)
    assert replay.bytes == 4 * 50 * row_bytes(SPEC)
    assert "4 environments x 47 rows" in replay.describe()
    assert "1.0 MB in RAM" in replay.describe()


def test_bad_rows_are_refused_and_nothing_is_written():
    replay = ReplayBuffer(SMALL, 2, 10)
    step, action = step_at(SMALL, 2, 1)
    cases = [
        (
            step.replace(reward=torch.tensor([0.0, float("nan")])),
            action,
            "replay.add: reward is nan in environment 1 of 2: it must be finite",
        ),
        (step.replace(reward=torch.zeros(2, dtype=torch.float64)), action, "reward is float64"),
        (step.replace(obs=step.obs | {"image": step.obs["image"].float()}), action, "obs/image is float32"),
        (step.replace(obs=step.obs | {"state": torch.full((2, 2), torch.inf)}), action, "obs/state is inf"),
        (step[:1], action[:1], r"for each of 2 environments"),
        (step, action * 0.5, "one-hot"),
        (step, action * float("nan"), "action is nan"),
    ]
    for bad, act, words in cases:
        with pytest.raises(UserError, match=words):
            replay.add(bad, act)
    assert len(replay) == 0


def test_too_little_data_and_bad_sizes():
    replay = ReplayBuffer(SMALL, 2, 10)
    with pytest.raises(UserError, match="no window of 4 rows yet"):
        replay.sample(2, 4, torch.Generator())
    fill(replay, 6)
    with pytest.raises(UserError, match="at least 1"):
        replay.sample(0, 4, torch.Generator())
    for num_envs, rows, resume_margin in ((0, 10, 0), (2, 1, 0), (2, 10, -1)):
        with pytest.raises(UserError, match="must be at least"):
            ReplayBuffer(SMALL, num_envs, rows, resume_margin=resume_margin)
