"""A replay whose files were cut, changed or exchanged is refused; one that may only be read is read."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ringrows import SMALL, fill

from isochrone.core.errors import UserError
from isochrone.data.replay import ReplayBuffer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rings of 10 rows and a margin of 6, 14 rows written."""
    replay = ReplayBuffer(SMALL, 2, 10, tmp_path / "ring", resume_margin=6)
    fill(replay, 14)
    replay.flush()
    return tmp_path / "ring"


def read(folder: Path) -> ReplayBuffer:
    replay = ReplayBuffer.open(folder)
    replay.verify()
    return replay


def test_a_file_that_was_cut_is_not_filled_with_zeros(folder: Path) -> None:
    for path in folder.glob("*.npy"):
        data = path.read_bytes()
        for changed in (data[:-1], data[: len(data) // 2], data + b"\0"):
            path.write_bytes(changed)
            words = f"has {len(changed)} bytes and not the {len(data)}" if len(changed) >= 128 else "has no header"
            with pytest.raises(UserError, match=f"{path.name} .*{words}"):
                read(folder)
            assert path.read_bytes() == changed, "it is left as it was"
        path.write_bytes(data)
    read(folder)


def test_a_changed_byte_of_a_row_is_noticed(folder: Path) -> None:
    """Every byte of the rows that can be sampled, in every file."""
    choose = random.Random(0)
    for path in sorted(folder.glob("*.npy")):
        data = path.read_bytes()
        row = (len(data) - 128) // 32
        for _ in range(6):
            env, number = choose.randrange(2), choose.randrange(4, 14)
            at = 128 + (env * 16 + number) * row + choose.randrange(row)
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(UserError, match="ring is damaged|is damaged"):
                read(folder)
        path.write_bytes(data)


def test_rows_that_cannot_be_sampled_may_be_anything(folder: Path) -> None:
    rewards = np.load(folder / "reward.npy", mmap_mode="r+")
    rewards[0, :4] = np.nan
    rewards.flush()
    assert len(read(folder)) == 20


def test_only_the_environments_that_are_asked_for_are_verified(folder: Path) -> None:
    rewards = np.load(folder / "reward.npy", mmap_mode="r+")
    rewards[1, 9] += 1
    rewards.flush()
    replay = ReplayBuffer.open(folder)
    replay.verify([0])
    with pytest.raises(UserError, match="row 9 of environment 1 .* is damaged"):
        replay.verify()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"total": [13, 14]}, "its checksum differs"),
        ({"total": [14.0, 14]}, "Expected `int`"),
        ({"total": None}, "Expected `array`"),
        ({"oldest": [0]}, "its checksum differs"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_a_changed_cursor_is_refused(folder: Path, change: dict[str, object], words: str) -> None:
    path = folder / "cursor.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=f"cursor.json is damaged: .*{words}"):
        ReplayBuffer.open(folder)


@pytest.mark.parametrize("change", [{"num_envs": 0}, {"capacity": "10"}, {"capacity": 10**11}, {"spec": None}])
def test_a_changed_description_is_refused(folder: Path, change: dict[str, object]) -> None:
    path = folder / "replay.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"replay.json is damaged|Expected|holds .* this run needs"):
        ReplayBuffer.open(folder)


def test_rows_exchanged_since_the_checkpoint_are_noticed(folder: Path, tmp_path: Path) -> None:
    """A replay that is sound in itself, but not the one that the checkpoint belongs to."""
    state = json.loads(json.dumps(ReplayBuffer.open(folder).state_dict()))
    other = ReplayBuffer(SMALL, 2, 10, tmp_path / "other", resume_margin=6)
    fill(other, 14, period=7)
    other.flush()
    with pytest.raises(UserError, match="holds other rows than at the time of the checkpoint"):
        other.load_state_dict(state)
    ReplayBuffer.open(folder).load_state_dict(state)


def test_a_link_in_place_of_a_file_is_refused_and_not_written(folder: Path, tmp_path: Path) -> None:
    path = folder / "reward.npy"
    shutil.move(path, tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match="reward.npy is a link"):
        ReplayBuffer.open(folder)
    (folder / "replay.json").unlink()  # made anew: the link is replaced
    before = (tmp_path / "elsewhere.npy").read_bytes()
    fill(ReplayBuffer(SMALL, 2, 10, folder, resume_margin=6), 3)
    assert (tmp_path / "elsewhere.npy").read_bytes() == before


def test_a_replay_that_may_only_be_read(folder: Path) -> None:
    want = ReplayBuffer.open(folder).sample(4, 3, torch.Generator().manual_seed(0))
    replay = ReplayBuffer.open(folder, write=False)
    replay.verify()
    got = replay.sample(4, 3, torch.Generator().manual_seed(0))
    assert torch.equal(got.obs["image"], want.obs["image"])
    with pytest.raises(ValueError, match="read-only"):
        fill(replay, 1)


def test_checksums_are_those_of_the_rows_that_were_written_last(tmp_path: Path) -> None:
    """Rings that wrap between flushes."""
    replay = ReplayBuffer(SMALL, 2, 10, tmp_path, resume_margin=6)
    for begin, count in ((0, 5), (5, 9), (14, 16), (30, 23)):
        fill(replay, count, start=begin)
        replay.flush()
        assert read(tmp_path).state_dict() == replay.state_dict()
