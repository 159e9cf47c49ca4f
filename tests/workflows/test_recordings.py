"""Recordings of all kinds: what validate says is what training does, and a run is resumed on another device."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from isochrone.cli import run
from isochrone.core.errors import UserError
from isochrone.training.config import TrainConfig
from isochrone.training.device import device_of
from isochrone.workflows import dataset, factory
from isochrone.workflows.recording import validate
from isochrone.workflows.train import build_all

TINY = "--train.steps 2 --train.batch 2 --train.length 6 --optim.model.warmup 0 --then=".split()


def recording(
    path: Path, lengths: list[int], image: tuple[int, ...] = (3, 64, 64), kind: str = "discrete", actions: int = 5
) -> Path:
    """Random frames and actions in the documented layout."""
    rows, rng = sum(lengths), np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["obs/image"] = rng.integers(0, 255, (rows, *image), dtype=np.uint8)
        file["action"] = np.eye(actions, dtype=np.float32)[rng.integers(0, actions, rows)]
        file["reward"], file["terminal"] = np.zeros(rows, np.float32), np.zeros(rows, bool)
        file["lengths"] = np.array(lengths)
        file.attrs.update({"format": "isochrone-episodes", "version": 1, "action_kind": kind})
    return path


def test_validate_names_the_recipes_that_can_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recording(tmp_path / "my.h5", [60] * 4)
    recipes = validate(path, "tiny")["recipes"]
    assert recipes == ["tiny"]
    assert run(["data", "validate", str(path), "--recipe", "tiny", "--train.length", "12"]) == 0
    assert f"isochrone train tiny --data {path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": (3, 1, 1)}, "image size 1x1"),
        ({"image": (3, 64, 0)}, r"obs/image has rows of shape \(3, 64, 0\), which hold nothing"),
        ({"lengths": [600]}, "holds 1 episode, and a holdout needs another one: cut it in several"),
        ({"lengths": [9] * 6}, "train.length = 12: no history in the replay is that long"),
        ({"lengths": [30, 9]}, "1 of 2 histories in the replay holds a window"),
        ({"kind": "continuous"}, "discrete"),
    ],
)
def test_what_training_refuses_is_refused_by_validate_too(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = recording(tmp_path / "my.h5", **{"lengths": [60] * 4, **options})
    changes = {"train.length": "12"}
    with pytest.raises(UserError, match=words):
        validate(path, "tiny", changes)
    with pytest.raises(UserError, match=words):
        build_all(factory.make_config("tiny", {**changes, "data.path": str(path)}))


def test_a_recording_that_no_recipe_can_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe can be trained on it; zhp: image size 1x1"):
        validate(recording(tmp_path / "my.h5", [600] * 4, image=(3, 1, 1)))


def test_a_long_episode_is_cut_as_the_sentence_says(tmp_path: Path) -> None:
    path, cut = recording(tmp_path / "one.h5", [60], image=(3, 8, 8)), tmp_path / "cut.h5"
    assert run(["data", "convert", str(path), "--out", str(cut), "--cut", "20"]) == 0
    assert validate(cut, "tiny", {"train.length": "6"})["longest"] == 20
    with h5py.File(path) as before, h5py.File(cut) as after:
        assert after["lengths"][:].tolist() == [20, 20, 20, 3]
        assert np.array_equal(after["obs/image"][19], before["obs/image"][19])
        assert np.array_equal(after["obs/image"][20], before["obs/image"][19]), "the row of the cut is in both"


def test_both_sides_of_the_split_can_be_sampled(tmp_path: Path) -> None:
    path = recording(tmp_path / "mixed.h5", [60, 50, 40] + [9] * 7, image=(3, 8, 8))
    config = factory.make_config("tiny", {"data.path": str(path), "train.length": "10"})
    for seed in range(5):
        config = factory.with_changes(config, {"train.seed": str(seed)})
        replay = dataset.fill_replay(config, None)
        train, holdout = dataset.holdout_split(config, replay)
        assert replay.starts(10, train).sum() > replay.starts(10, holdout).sum() > 0


def test_a_recording_beyond_the_budget_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    path = recording(tmp_path / "my.h5", [60] * 4)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="more than data.budget_mb = 1"):
        build_all(factory.make_config("tiny", {"data.path": str(path), "data.budget_mb": "1"}))
    assert run(["train", "tiny", "--data", str(path), "--data.budget-mb", "1", "--run", str(folder), *TINY]) == 2
    assert not folder.exists()


def test_another_library_s_file_is_recognised(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d4rl.h5", "w") as file:
        file["observations"], file["actions"] = np.zeros((4, 2)), np.zeros((4, 1))
        file["rewards"], file["terminals"], file["timeouts"] = np.zeros(4), np.zeros(4, bool), np.zeros(4, bool)
    with pytest.raises(UserError, match=r"in the layout of d4rl \(actions, .*isochrone data convert .*d4rl.h5 --out"):
        validate(tmp_path / "d4rl.h5")


@pytest.fixture
def from_a_gpu(tmp_path: Path) -> Path:
    """A run whose newest checkpoint looks as if a GPU had written it: the state of its generator has 16 bytes."""
    path, folder = recording(tmp_path / "plain.h5", [30] * 8), tmp_path / "run"
    words = [*TINY, "--train.steps", "4", "--train.save-every", "2"]
    assert run(["train", "tiny", "--data", str(path), "--run", str(folder), *words]) == 0
    shutil.rmtree(folder / "checkpoints" / "00000004")
    newest = folder / "checkpoints" / "00000002"
    file = newest / "trainer.safetensors"
    with safe_open(file, "pt") as stored:
        about, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    assert "random/losses" in tensors
    tensors["random/losses"] = torch.zeros(16, dtype=torch.uint8)
    file.write_bytes(data := save(tensors, about))
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"][file.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.slow
def test_a_run_goes_on_on_another_device(from_a_gpu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (from_a_gpu / "config.json").read_text()
    assert run(["train", "--resume", str(from_a_gpu), "--train.batch", "3"]) == 2
    assert "leave out --train.batch (only train.accelerator, train.device" in capsys.readouterr().err
    assert run(["train", "--resume", str(from_a_gpu), "--train.accelerator", "cpu", "--train.threads", "1"]) == 0
    said = capsys.readouterr().err
    assert said.count("they go on with another stream") == 1
    assert "step 4 of 4" in said
    assert (from_a_gpu / "config.json").read_text() == config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_sentence_with_the_option() -> None:
    with pytest.raises(UserError, match="torch sees no GPU here; use --train.accelerator cpu"):
        device_of(TrainConfig(accelerator="cuda"))
