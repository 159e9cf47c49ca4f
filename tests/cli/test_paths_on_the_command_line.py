"""Every command and option that takes a path: odd names work, and what cannot be is refused before any work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

LONG = "x" * 300


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run, files and folders of odd names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("run", "lr=0.1", "-dash", "home/run", "data=1"):
        shutil.copytree(trained, tmp_path / name)
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "fifo.h5")
    return tmp_path


def refused(done, *words: str) -> None:
    assert done.code == 2, done
    (line,) = [line for line in done.err.splitlines() if line.startswith("isochrone: ")]
    for word in words:
        assert word in line, line


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["lr=0.1"], ["--", "-dash"], ["~/run"], ["--", "data=1"], ["./data=1"]], ids=" ".join
)
def test_a_run_of_an_odd_name_is_found(isochrone, here: Path, words: list[str]) -> None:
    done = isochrone("eval", "--no-figures", "--eval.pairs", "0", *words)
    assert done.code == 0, done.err


@pytest.mark.parametrize("command", ["eval", "plan", "report"])
def test_what_is_no_run_is_refused(isochrone, here: Path, command: str) -> None:
    refused(isochrone(command, ""), "give one run folder", "''")
    refused(isochrone(command, "file"), "contains no run")
    refused(isochrone(command, "folder"), "contains no run")
    refused(isochrone(command, "fifo"), "contains no run")
    refused(isochrone(command, "file/run"), "contains no run")
    refused(isochrone(command, LONG), "name is too long")
    refused(isochrone(command, "~nobody-there/run"), "no user 'nobody-there'")
    refused(isochrone(command, "trian.steps=2"), "contains no run")


def test_a_run_folder_that_cannot_be_made_is_refused(isochrone, small, here: Path) -> None:
    for name, words in {
        "": "give the path",
        "file": "file cannot be created",
        "file/run": "file/run cannot be created",
        LONG: "name is too long",
        "~nobody-there/run": "no user 'nobody-there'",
    }.items():
        refused(isochrone("train", "tiny", *small, f"--run={name}"), words)
    refused(isochrone("train", "--resume", ""), "give the path")
    refused(isochrone("train", "--resume", LONG), "name is too long")
    refused(isochrone("train", "--run"), "expected one argument")


@pytest.mark.slow
def test_a_new_run_of_an_odd_name(isochrone, small, here: Path) -> None:
    words = [*small, "--train.steps", 1, "--optim.model.warmup", 0, "--then", ""]
    for name, path in {"~/new": "home/new", "runs/seed=3": "runs/seed=3", "./~": "~"}.items():
        assert isochrone("train", "tiny", *words, f"--run={name}").code == 0
        assert (here / path / "config.json").is_file()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "--out folder is a folder"),
        ("", "--out '': give the path"),
        ("file/x.gif", "file is not a folder"),
        (LONG, "name is too long"),
        ("fifo", "--out 'fifo' is a pipe or a device"),
    ],
    ids=["folder", "empty", "under a file", "long", "pipe"],
)
def test_a_film_that_cannot_be_written_is_refused(isochrone, here: Path, out: str, words: str) -> None:
    refused(isochrone("plan", "run", f"--out={out}"), words)
    refused(isochrone("data", "collect", "tiny", f"--out={out}"), words)
    refused(isochrone("routes", "--all", f"--write={out}"), words.replace("--out", "--write"))


def test_recordings_and_maps_that_cannot_be_read_are_refused(isochrone, small, here: Path) -> None:
    for name in ("fifo.h5", "/dev/zero"):
        refused(isochrone("data", "validate", name), "is a pipe or a device")
        refused(isochrone("data", "info", name), "is a pipe or a device")
        refused(isochrone("train", "tiny", *small, "--run", "r", "--data", name), "is a pipe or a device")
    for name, words in {
        "fifo": "is a pipe or a device",
        "/dev/zero": "is a pipe or a device",
        "folder": "cannot be read",
        "": "give the path",
        LONG: "name is too long",
    }.items():
        refused(isochrone("train", "tiny", *small, "--run", "r", f"--env.map-file={name}"), words)
    refused(isochrone("data", "validate", ""), "give one recording")
    refused(isochrone("data", "validate", "file"), "none of the formats")
    assert not (here / "r").exists()


def test_words_after_two_dashes_are_no_options(isochrone, here: Path) -> None:
    refused(isochrone("eval", "--", "--json"), "--json contains no run")
    refused(isochrone("doctor", "--", "x"), "x contains no run")
    refused(isochrone("list", "--", "--json"), "no kind called '--json'")
