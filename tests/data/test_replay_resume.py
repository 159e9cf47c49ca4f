"""Going back to a saved cursor, opening a folder again, and folders that do not fit."""

import json
import os
import random
import signal
from time import sleep

import numpy as np
import pytest
import torch
from ringrows import SMALL, SPEC, assert_window_is_true, fill

from isochrone.core.errors import UserError
from isochrone.data.replay import ReplayBuffer


def test_reopened_folder_continues_from_its_flush(tmp_path):
    replay = ReplayBuffer(SMALL, 2, 10, tmp_path / "ring")
    fill(replay, 14)
    replay.flush()
    fill(replay, 2, start=14)  # not flushed: ignored, though it overwrote rows 4 and 5
    again = ReplayBuffer(SMALL, 2, 10, tmp_path / "ring")
    assert again.column(1, "obs/state")[:, 1].tolist() == [6, 7, 8, 9, 10, 11, 12, 13]
    assert ReplayBuffer.open(tmp_path / "ring").state_dict() == again.state_dict()
    fill(again, 5, start=14)
    assert again.column(0, "obs/state")[:, 1].tolist() == list(range(9, 19))
    assert "20 rows in it" in again.describe()
    assert str(tmp_path) in again.describe()


def test_a_resume_margin_makes_resuming_exact(tmp_path):
    """Killed after up to `resume_margin` rows beyond the cursor, the windows are the same ones bit for bit."""
    choose = random.Random(0)
    replay = ReplayBuffer(SMALL, 2, 10, tmp_path / "ring", resume_margin=6)
    fill(replay, 12)
    for attempt in range(5):
        saved, total = json.loads(json.dumps(replay.state_dict())), replay.total // 2
        want = replay.sample(20, 4, torch.Generator().manual_seed(attempt))
        fill(replay, choose.randint(0, 6), start=total + 10**4)  # a future that the resumed run does not have
        del replay  # no flush: the process died
        replay = ReplayBuffer(SMALL, 2, 10, tmp_path / "ring", resume_margin=6)
        replay.load_state_dict(saved)
        got = replay.sample(20, 4, torch.Generator().manual_seed(attempt))
        assert all(torch.equal(got.obs[k], want.obs[k]) for k in want.obs)
        assert torch.equal(got.action, want.action)
        fill(replay, 4, start=total)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.slow
def test_killed_at_any_instant_the_ring_matches_its_cursor(tmp_path):
    """SIGKILL while rows and cursors are written: every row up to the last flush is there and true."""
    choose = random.Random(1)
    replay = ReplayBuffer(SMALL, 2, 30, tmp_path, resume_margin=25)
    replay.flush()
    kills = 0
    while kills < 5 or (replay.total < 2 * 100 and kills < 100):
        child = os.fork()
        if not child:
            try:
                while True:
                    fill(replay, 25, start=replay.total // 2)
                    replay.flush()
            finally:
                os._exit(1)
        kills += 1
        sleep(choose.uniform(0.01, 0.08) * (1 + kills / 10))  # longer and longer: on a busy disk little is done so soon
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        replay = ReplayBuffer(SMALL, 2, 30, tmp_path, resume_margin=25)
        steps = replay.total // 2
        assert steps % 25 == 0
        assert len(replay) == 2 * min(30, steps)
        want = list(range(max(0, steps - 30), steps))
        assert [replay.column(env, "obs/state")[:, 1].tolist() for env in (0, 1)] == [want, want]
        if steps:
            assert_window_is_true(replay.sample(20, 5, torch.Generator().manual_seed(0)), SMALL)
    assert replay.total >= 2 * 100


def test_a_replay_in_ram_cannot_be_resumed():
    replay = ReplayBuffer(SMALL, 2, 10)
    fill(replay, 3)
    state = replay.state_dict()
    ReplayBuffer(SMALL, 2, 10).load_state_dict(
        ReplayBuffer(SMALL, 2, 10).state_dict()
    )  # nothing recorded, nothing lost
    with pytest.raises(UserError, match="was in RAM: give it a folder"):
        ReplayBuffer(SMALL, 2, 10).load_state_dict(state)
    with pytest.raises(UserError, match="2 environments, this replay 3"):
        ReplayBuffer(SMALL, 3, 10).load_state_dict(state)


def test_an_existing_folder_must_fit(tmp_path):
    folder = tmp_path / "ring"
    ReplayBuffer(SMALL, 2, 10, folder).flush()
    for spec, num_envs, rows, words in (
        (SPEC, 2, 10, "was written with spec"),
        (SMALL, 3, 10, "was written with num_envs = 2, this run has 3"),
        (SMALL, 2, 11, "capacity = 10, this run has 11"),
    ):
        with pytest.raises(UserError, match=words):
            ReplayBuffer(spec, num_envs, rows, folder)
    np.save(folder / "reward.npy", np.zeros((2, 10), np.float64))
    with pytest.raises(UserError, match=r"reward.npy holds float64 \(2, 10\), this run needs float32"):
        ReplayBuffer(SMALL, 2, 10, folder)
    (folder / "reward.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="reward.npy is damaged: it has no header"):
        ReplayBuffer(SMALL, 2, 10, folder)
    (folder / "replay.json").write_text("{")
    with pytest.raises(UserError, match="replay.json is damaged"):
        ReplayBuffer(SMALL, 2, 10, folder)


def test_open_refuses_a_folder_without_a_replay(tmp_path):
    with pytest.raises(UserError, match="holds no replay"):
        ReplayBuffer.open(tmp_path)
    (tmp_path / "replay.json").write_text('{"version": 7}')
    with pytest.raises(UserError, match="has version 7, this code reads 3"):
        ReplayBuffer.open(tmp_path)


def test_pickled_arrays_are_refused(tmp_path):
    ReplayBuffer(SMALL, 2, 10, tmp_path).flush()
    np.save(tmp_path / "reward.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds object"):
        ReplayBuffer(SMALL, 2, 10, tmp_path)


def test_no_room_on_the_disk_is_reported_at_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="no room for .*No space left on device.*lower the budget"):
        ReplayBuffer(SMALL, 2, 10, tmp_path / "ring")
    assert not (tmp_path / "ring" / "replay.json").exists()
