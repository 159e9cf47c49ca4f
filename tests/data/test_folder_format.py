"""A format from outside, a folder with a .npz file for each episode: detected, validated, streamed and trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from isochrone.cli import run
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write, load_json
from isochrone.core.protocols import Format
from isochrone.core.types import Spec
from isochrone.data import source
from isochrone.data.episode import Episode, spec_from_dict, spec_to_dict
from isochrone.workflows import dataset


class NpzFolder:
    """spec.json, and one .npz file for each episode, called NUMBER_ROWS.npz."""

    streamed = True

    def detect(self, path: Path) -> bool:
        return path.suffix == ".episodes"

    def spec(self, path: Path) -> Spec:
        return spec_from_dict(load_json(path / "spec.json"))

    def lengths(self, path: Path) -> np.ndarray | None:
        return (
            np.array([int(file.stem.split("_")[1]) for file in sorted(path.glob("*.npz"))]) if self.streamed else None
        )

    def read(self, path: Path) -> Iterator[Episode]:
        for file in sorted(path.glob("*.npz")):
            with np.load(file, allow_pickle=False) as columns:
                yield Episode.of({name.replace(":", "/"): columns[name] for name in columns.files})

    def write(self, path: Path, episodes: Iterable[Episode], spec: Spec) -> int:
        path.mkdir()
        for count, episode in enumerate(episodes):
            columns = {name.replace("/", ":"): array for name, array in episode.columns().items()}
            np.savez(path / f"{count:05d}_{len(episode)}.npz", **columns)  # pyright: ignore[reportArgumentType]
        atomic_write(path / "spec.json", json.dumps(spec_to_dict(spec)))
        return len(list(path.glob("*.npz")))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.names("format")
    monkeypatch.setitem(registry._components["format"], "npz_folder", NpzFolder)


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
    assert run(["data", "validate", str(recording)]) == 0
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
    assert load_json(tmp_path / "run" / "config.json")["data"]["path"] == str(recording)
    assert dataset.read_spec(tmp_path / "run" / "spec.json") == NpzFolder().spec(recording)
