"""A format from outside, a folder with a .npz file for each episode: detected, validated, streamed and trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from npzfolder import NpzFolder

from isochrone.cli import run
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import Format
from isochrone.data import source
from isochrone.data.episode import read_spec

ENTRY_POINTS = """
[isochrone.format]
npz_folder = npzfolder:NpzFolder
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package whose entry point is the format."""
    about = tmp_path / "site" / "npz_folder-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: npz-folder\nVersion: 1\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry._plugins.cache_clear()
    registry._entry_points.cache_clear()
    yield
    registry._plugins.cache_clear()
    registry._entry_points.cache_clear()
    registry._components["format"].pop("npz_folder", None)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "my.episodes"
    words = ["--data.num-envs", "3", "--data.rows", "66", "--env.episode-length", "20"]
    assert run(["data", "collect", "tiny", "--out", str(path), *words]) == 0
    return path


def test_it_satisfies_the_protocol_and_is_detected(tmp_path: Path) -> None:
    assert isinstance(NpzFolder(), Format)
    assert isinstance(source.open_format(tmp_path / "my.episodes"), NpzFolder)
    assert not isinstance(source.open_format(tmp_path / "my.h5"), NpzFolder)


def test_the_command_line_describes_and_validates_it(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "info", str(recording), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))["episodes"] == 9
    assert run(["data", "validate", str(recording), "--recipe", "tiny", "--train.length", "6"]) == 0
    assert "can be used for training" in capsys.readouterr().out


def test_damage_is_reported_with_the_episode(recording: Path) -> None:
    file = sorted(recording.glob("*.npz"))[4]
    with np.load(file) as columns:
        np.savez(file, **{**columns, "reward": columns["reward"] * np.nan})
    for read in (source.validate, source.load_into):
        with pytest.raises(UserError, match=r"my\.episodes: episode 4: reward is nan at row 0"):
            read(recording)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_replay_holds_its_episodes(recording: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NpzFolder, "streamed", streamed)
    replay = source.load_into(recording)
    assert len(replay) == source.describe(recording)["rows"] == 9 * 21
    lengths = [len(episode) for episode in replay.episodes()]
    assert lengths == [21] * 9


def test_a_model_trains_on_it(recording: Path, tmp_path: Path) -> None:
    words = [
        "--run",
        str(tmp_path / "run"),
        "--train.steps",
        "2",
        "--optim.model.warmup",
        "0",
        "--train.batch",
        "2",
        "--train.length",
        "6",
    ]
    assert run(["train", "tiny", "--data", str(recording), "--then", "", *words]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["path"] == str(recording)
    assert read_spec(tmp_path / "run" / "spec.json") == NpzFolder().spec(recording)
