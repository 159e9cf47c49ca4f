"""LeRobot v3 folders, written here as LeRobot lays them out: several episodes in one table and in one video."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isochrone.core.errors import UserError
from isochrone.data import source
from isochrone.data.convert import convert
from isochrone.data.formats.lerobot import LeRobot

pa = pytest.importorskip("pyarrow", reason="pip install 'isochrone[lerobot]'")
av = pytest.importorskip("av", reason="pip install 'isochrone[lerobot]'")
from pyarrow import parquet  # noqa: E402

LENGTHS, FPS = (7, 5, 9), 10
CAMERA = "observation.images.top"


def level(episode: int, frame: int) -> int:
    """The grey of a frame: different in every frame of the sample."""
    return 20 + 70 * episode + 7 * frame


def write_video(file: Path) -> None:
    """All episodes one behind the other, with few key frames."""
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"g": "6", "qscale": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for episode, length in enumerate(LENGTHS):
            for frame in range(length):
                picture = np.full((32, 32, 3), level(episode, frame), np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of three episodes."""
    path, chunk = tmp_path / "dataset", "chunk-000/file-000"
    features: dict[str, Any] = {
        CAMERA: {"dtype": "video", "shape": [32, 32, 3], "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": [2]},
        "action": {"dtype": "float32", "shape": [2]},
        "next.reward": {"dtype": "float32", "shape": [1]},
    }
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features}
    info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
    info |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    meta = path / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info))
    (meta / "stats.json").write_text(json.dumps({"action": {"min": [0, -4], "max": [10, 4]}}))
    rows, episodes, begin = [], [], 0
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            row = {"episode_index": episode, "frame_index": frame, "index": begin + frame, "timestamp": frame / FPS}
            row |= {"observation.state": [float(episode), float(frame)], "action": [float(frame), 4.0]}
            rows.append(row | {"next.reward": float(frame + 1)})
        about = {"episode_index": episode, "length": length, "data/chunk_index": 0, "data/file_index": 0}
        about |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": 0}
        episodes.append(about | {f"videos/{CAMERA}/from_timestamp": begin / FPS})
        begin += length
    parquet.write_table(pa.Table.from_pylist(episodes), meta / "episodes" / f"{chunk}.parquet")
    (path / "data" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path / "data" / f"{chunk}.parquet")
    write_video(path / "videos" / CAMERA / f"{chunk}.mp4")
    return path


def test_episodes_are_read_from_tables_and_video(folder: Path) -> None:
    assert isinstance(source.open_format(folder), LeRobot)
    facts = source.validate(folder)
    assert (facts["episodes"], facts["rows"], facts["obs"]) == (3, 21, {"image": [3, 32, 32], "state": [2]})
    assert facts["action"] == {"kind": "continuous", "size": 2, "names": []}
    for number, episode in enumerate(LeRobot().read(folder)):
        frames = range(LENGTHS[number])
        seen = episode.obs["image"].mean((1, 2, 3))
        assert np.abs(seen - [level(number, frame) for frame in frames]).max() < 3, "the frames of this episode"
        assert episode.obs["state"].tolist() == [[number, frame] for frame in frames]
        assert episode.reward.tolist() == list(frames), "the reward of an action lies on the next row"
        assert np.allclose(episode.action[:, 0], [frame / 5 - 1 for frame in frames]), "0 .. 10 became -1 .. 1"
        assert episode.action[0, 1] == 1


def test_it_is_converted_to_a_file(folder: Path, tmp_path: Path) -> None:
    notes = convert(folder, tmp_path / "my.h5", size=16)
    assert "image resized from 32x32 to 16x16" in notes
    assert source.describe(tmp_path / "my.h5")["rows"] == 21


def damaged(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("meta/info.json", "info.json cannot be read"),
        ("meta/episodes/chunk-000/file-000.parquet", "is missing or damaged"),
        ("data/chunk-000/file-000.parquet", "is missing or damaged"),
        (f"videos/{CAMERA}/chunk-000/file-000.mp4", "is missing or damaged"),
    ],
)
def test_a_damaged_file_is_named(name: str, words: str, folder: Path) -> None:
    damaged(folder, name)
    with pytest.raises(UserError, match=words):
        source.validate(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebase_version": "v2.1"}, "of version v2.1, this reads v3"),
        ({"features": {}}, "no feature 'action'"),
        ({"data_path": "../{chunk_index}/{file_index}"}, "leads out of the folder"),
    ],
)
def test_metadata_that_does_not_fit(change: dict[str, Any], words: str, folder: Path) -> None:
    info = folder / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | change))
    for read in (source.validate, lambda path: convert(path, path / "my.h5")):
        with pytest.raises(UserError, match=words):
            read(folder)


def test_it_is_not_written(folder: Path) -> None:
    with pytest.raises(UserError, match="are only read; write an .h5 file"):
        LeRobot().write(folder, [], LeRobot().spec(folder))
