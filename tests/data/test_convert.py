"""Recordings of other libraries become ours: rewards at their arrival, axes turned, actions scaled, the rest said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from isochrone.cli import run
from isochrone.core.errors import UserError
from isochrone.data import source
from isochrone.data.convert import convert
from isochrone.data.episode import Episode
from isochrone.data.formats.hdf5 import Hdf5

RNG = np.random.default_rng(0)
Y, X, C = np.meshgrid(np.arange(20), np.arange(24), np.arange(3), indexing="ij")
FRAMES = np.stack([4 * Y + 3 * X + 20 * C + 10 * t for t in range(6)]).astype(np.uint8)  # one more than actions
STATES = RNG.normal(size=(6, 3)).astype(np.float32)
ACTIONS = RNG.uniform(-2, 2, (5, 2)).astype(np.float32)
REWARDS = np.arange(1, 6, dtype=np.float32)


def converted(path: Path, **options: Any) -> tuple[list[Episode], list[str]]:
    """(our episodes, what was said), once they passed every check of a recording."""
    out = (path if path.is_dir() else path.parent) / "ours.h5"
    notes = convert(path, out, **options)
    source.validate(out)
    return list(Hdf5().read(out)), notes


def check_whole(episode: Episode) -> None:
    """All of FRAMES, and the rewards one row down."""
    assert np.array_equal(episode.obs["image"], FRAMES.transpose(0, 3, 1, 2))
    assert episode.reward.tolist() == [0, 1, 2, 3, 4, 5]


# --- Minari, written by its own library -------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["box", "discrete"])
@pytest.mark.parametrize("jpeg", [False, True])
def test_minari(act: str, jpeg: bool, tmp_path: Path) -> None:
    storage = pytest.importorskip("minari.dataset.minari_storage", reason="pip install minari")
    buffer = pytest.importorskip("minari.data_collector.episode_buffer").EpisodeBuffer
    observations = spaces.Dict(
        {"pixels": spaces.Box(0, 255, (20, 24, 3), np.uint8), "state": spaces.Box(-9, 9, (3,), np.float32)}
    )
    bounds = np.array([-2, 0], np.float32), np.array([2, 4], np.float32)
    actions = spaces.Box(*bounds) if act == "box" else spaces.Discrete(4, start=1)
    taken = [bounds[0], np.array([2, 1], np.float32)] * 3 if act == "box" else [1, 4, 2, 3, 1]
    file = storage.MinariStorage.new(tmp_path / "data", observations, actions, jpeg_encoding=jpeg)
    ends = {"terminations": [False] * 4 + [True], "truncations": [False] * 5}
    seen = {"pixels": list(FRAMES), "state": list(STATES)}
    file.update_episodes(
        [buffer(observations=seen, actions=taken[:5], rewards=list(REWARDS), **ends, infos={"x": [0] * 6})] * 2
    )
    (first, second), notes = converted(tmp_path)
    assert len(first) == len(second) == 6
    if jpeg:
        assert np.abs(first.obs["image"].astype(float) - FRAMES.transpose(0, 3, 1, 2)).mean() < 5
    else:
        assert np.array_equal(first.obs["image"], FRAMES.transpose(0, 3, 1, 2))
    assert first.reward.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(first.obs["state"], STATES)
    assert first.terminal.tolist() == [False] * 5 + [True]
    if act == "box":
        assert first.action.tolist() == [[-1, -1], [1, -0.5], [-1, -1], [1, -0.5], [-1, -1], [0, 0]]
        assert "actions: 2 real numbers, scaled to -1 .. 1 from the bounds of their space" in notes
    else:
        assert first.action[:5].argmax(-1).tolist() == [0, 3, 1, 2, 0]
        assert "actions: 4 choices" in notes
    assert convert(tmp_path / "data" / "main_data.hdf5", tmp_path / "again.h5")[0] == "layout minari"


# --- by hand ----------------------------------------------------------------------------------------------------------


def d4rl(file: h5py.File) -> None:
    """Two episodes end to end: the first is terminal, the second ran out of time."""
    file["observations"] = np.concatenate([FRAMES[:5], FRAMES[:3]])
    file["next_observations"] = np.concatenate([FRAMES[1:], FRAMES[1:4]])
    file["actions"], file["rewards"] = np.concatenate([ACTIONS, ACTIONS[:3]]), np.concatenate([REWARDS, REWARDS[:3]])
    file["terminals"], file["timeouts"] = np.arange(8) == 4, np.arange(8) == 7
    file["infos/qpos"] = np.zeros((8, 2))


def test_d4rl(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        d4rl(file)
    (first, second), notes = converted(tmp_path / "d4rl.hdf5")
    check_whole(first)
    assert first.terminal[-1]
    assert len(second) == 4
    assert not second.terminal.any()
    low, high = ACTIONS.min(0), ACTIONS.max(0)
    assert np.allclose(first.action[:5], (ACTIONS - low) / (high - low) * 2 - 1, atol=1e-6)
    assert "scaled to -1 .. 1 from the smallest and largest that occur" in "\n".join(notes)
    assert "rewards moved down to the row of their arrival" in notes


def test_d4rl_without_arrivals_loses_the_last_reward_and_says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        d4rl(file)
        del file["next_observations"]
    (first, _), notes = converted(tmp_path / "d4rl.hdf5")
    assert first.reward.tolist() == [0, 1, 2, 3, 4]
    assert not first.terminal.any(), "the state that ended the episode was not recorded"
    assert "that of the last action of each episode is left out" in "\n".join(notes)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_ogbench(suffix: str, tmp_path: Path) -> None:
    path, columns = tmp_path / f"visual{suffix}", {"terminals": np.array([0, 0, 1, 0, 0, 1], np.float32)}
    columns |= {"observations": FRAMES, "actions": np.clip(STATES, -1, 1), "qpos": STATES}
    if suffix == ".npz":
        np.savez(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for name, array in columns.items():
                file[name] = array
    episodes, notes = converted(path)
    assert [len(e) for e in episodes] == [3, 3]
    assert np.array_equal(episodes[1].obs["image"], FRAMES[3:].transpose(0, 3, 1, 2))
    assert np.array_equal(episodes[0].action, np.clip(STATES, -1, 1)[:3])
    assert not any(e.terminal.any() or e.reward.any() for e in episodes)
    assert {"layout ogbench", "no rewards: all are 0"} <= set(notes)


def robomimic(file: h5py.File) -> None:
    for number in (0, 10, 2):
        demo = file.create_group(f"data/demo_{number}")
        for name, begin in (("obs", 0), ("next_obs", 1)):
            demo[f"{name}/agentview_image"] = FRAMES[begin : begin + 5]
            demo[f"{name}/robot0_eye_in_hand_image"] = FRAMES[begin : begin + 5, ::-1]
            demo[f"{name}/robot0_eef_pos"] = STATES[begin : begin + 5] + number
        demo["actions"], demo["rewards"] = ACTIONS / 2, REWARDS
        demo["dones"], demo["states"] = np.arange(5) == 4, np.zeros((5, 9))


def test_robomimic(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "low_dim.hdf5", "w") as file:
        robomimic(file)
    episodes, notes = converted(tmp_path / "low_dim.hdf5")
    check_whole(episodes[0])
    assert [round(float((e.obs["robot0_eef_pos"] - STATES).mean())) for e in episodes] == [0, 2, 10], "in order"
    assert np.allclose(episodes[0].action[:5], ACTIONS / 2)
    assert episodes[0].terminal[-1]
    said = "\n".join(notes)
    assert "image from 'agentview_image' (20, 24, 3), as (C, Y, X) (3, 20, 24)" in said
    assert "left out: robot0_eye_in_hand_image (--key chooses a picture)" in said
    assert "actions: 2 real numbers, within -1 .. 1 as they are" in said
    (tmp_path / "ours.h5").unlink()
    other = converted(tmp_path / "low_dim.hdf5", key="robot0_eye_in_hand_image")[0][0]
    assert np.array_equal(other.obs["image"], FRAMES[:, ::-1].transpose(0, 3, 1, 2))


def test_stable_worldmodel(tmp_path: Path) -> None:
    """Rewards lie on the row of their arrival already, and the last action of an episode is NaN."""
    with h5py.File(tmp_path / "swm.h5", "w") as file:
        file["pixels"], file["proprio"] = np.concatenate([FRAMES, FRAMES[:3]]), np.concatenate([STATES, STATES[:3]])
        nan = np.full((1, 2), np.nan, np.float32)
        file["action"] = np.concatenate([ACTIONS, nan, ACTIONS[:2], nan])
        file["reward"] = np.concatenate([[np.nan], REWARDS, [np.nan], REWARDS[:2]])
        file["terminated"] = np.arange(9) == 5
        file["ep_len"], file["ep_offset"] = np.array([6, 3]), np.array([0, 6])
        file["step_idx"] = np.arange(9)
    (first, second), notes = converted(tmp_path / "swm.h5")
    check_whole(first)
    assert first.terminal[-1]
    assert second.reward.tolist() == [0, 1, 2]
    assert not second.terminal.any()
    assert "rewards lie on the row of their arrival already" in notes
    assert set(first.obs) == {"image", "proprio"}


# --- options and refusals ---------------------------------------------------------------------------------------------


def test_size_and_cut_and_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        d4rl(file)
    words = ["--size", "8", "--cut", "4", "--layout", "d4rl"]
    assert run(["data", "convert", str(tmp_path / "d4rl.hdf5"), "--out", str(tmp_path / "out.h5"), *words]) == 0
    said = capsys.readouterr().out
    assert "image resized from 20x24 to 8x8, not to scale" in said
    episodes = list(Hdf5().read(tmp_path / "out.h5"))
    assert [len(e) for e in episodes] == [4, 3, 4]
    assert episodes[0].obs["image"].shape == (4, 3, 8, 8)
    assert [e.reward.tolist() for e in episodes] == [[0, 1, 2, 3], [0, 4, 5], [0, 1, 2, 3]]
    assert [bool(e.terminal[-1]) for e in episodes] == [False, True, False]
    assert run(["data", "convert", str(tmp_path / "d4rl.hdf5"), "--out", str(tmp_path / "out.h5")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_discrete_actions_without_a_space_are_as_many_as_occur(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        d4rl(file)
        del file["actions"]
        file["actions"] = np.array([0, 3, 1, 2, 0, 0, 1, 2])
    (first, _), notes = converted(tmp_path / "d4rl.hdf5")
    assert first.action[:5].argmax(-1).tolist() == [0, 3, 1, 2, 0]
    assert "actions: 4 choices, as many as occur" in notes


def without(*names: str):
    def edit(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return edit


def exchanged(name: str, array: np.ndarray):
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = array

    return edit


BAD = {
    "no actions": (without("actions"), "none of the layouts minari, .*; it holds"),
    "states only": (exchanged("observations", np.zeros((8, 4, 4, 4, 4, 4))), "no observation can be used"),
    "action NaN": (exchanged("actions", np.full((8, 2), np.nan)), "an action is not finite"),
    "several choices": (exchanged("actions", np.zeros((8, 2), np.int64)), r"actions have \[2\] whole numbers each"),
    "reward NaN": (exchanged("rewards", np.full(8, np.nan)), "episode 0: reward is nan at row 1"),
    "fewer flags": (exchanged("terminals", np.zeros(5)), "cannot be read as a recording"),
}


@pytest.mark.parametrize(("edit", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_converted_is_one_sentence_and_nothing_is_written(edit, words: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        d4rl(file)
        edit(file)
    with pytest.raises(UserError, match=words):
        convert(tmp_path / "d4rl.hdf5", tmp_path / "ours.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["d4rl.hdf5"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "d4lr"}, "no layout called 'd4lr'; did you mean 'd4rl'"),
        ({"key": "pixels"}, "no picture called 'pixels'"),
        ({"cut": 1}, "an episode needs at least 2 rows"),
        ({"size": 0}, "size = 0: must be 1"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        d4rl(file)
    with pytest.raises(UserError, match=words):
        convert(tmp_path / "d4rl.hdf5", tmp_path / "ours.h5", **options)


def test_files_that_are_no_recordings(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no recording")
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "pickled.npz", observations=np.array([{}], object), actions=np.zeros(1))
    for name, words in (
        ("text.h5", "cannot be read as a recording"),
        ("folder", "is a folder without main_data.hdf5"),
        ("nothing.h5", "does not exist"),
        ("pickled.npz", "cannot be read as a recording"),
    ):
        with pytest.raises(UserError, match=words):
            convert(tmp_path / name, tmp_path / "ours.h5")
