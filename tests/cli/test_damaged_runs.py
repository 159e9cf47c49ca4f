"""Runs with damaged, missing, moved or read-only files: refused by name and left as they are, or used as they were."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from isochrone.core.errors import UserError
from isochrone.training.run import Run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run of six steps, with checkpoints of steps 3 and 6."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file, but for the lock."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith("lock")]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def harm(path: Path, at: int = 5000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def refused(said, *words: str) -> None:
    assert said.code == 2, said
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err.strip().splitlines()[-1], said.err


def test_a_run_none_of_whose_checkpoints_can_be_read_is_refused_and_left_alone(isochrone, run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        harm(folder / "weights.safetensors")
    (run / "replay" / "cursor.json").write_text("{")
    before = contents(run)
    words = ["00000006 (weights.safetensors: its sha256", "00000003 (weights.safetensors", "--restart"]
    refused(isochrone("train", "--resume", run), "no checkpoint of", *words)
    refused(isochrone("eval", run), "no checkpoint of", *words[:2])
    assert contents(run) == before


@pytest.mark.parametrize("gone", ["checkpoints", "manifests"])
def test_a_run_whose_checkpoints_are_gone_does_not_start_over(isochrone, run: Path, gone: str) -> None:
    if gone == "checkpoints":
        shutil.rmtree(run / "checkpoints")
    else:
        for path in run.glob("checkpoints/*/manifest.json"):
            path.unlink()
    before = contents(run)
    said = "it was at step 6" if gone == "checkpoints" else "manifest.json cannot be read: No such file"
    refused(isochrone("train", "--resume", run), said, "--restart")
    assert contents(run) == before


@pytest.mark.slow
def test_restart_begins_at_step_0_and_keeps_the_old_checkpoints(isochrone, run: Path) -> None:
    good = (run / "checkpoints/00000006/weights.safetensors").read_bytes()
    for folder in (run / "checkpoints").iterdir():
        harm(folder / "trainer.safetensors")
    done = isochrone("train", "--resume", run, "--restart")
    assert done.code == 0, done.err
    assert (run / "checkpoints/00000006/weights.safetensors").read_bytes() == good, "the same seed, the same weights"
    assert (run / "checkpoints.old-1/00000006/weights.safetensors").read_bytes() == good
    assert [row["step"] for row in Run.open(run, write=False).rows()][-1] == 6
    refused(isochrone("train", "tiny", "--restart"), "--restart belongs to --resume")


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_named_with_the_step_that_is_used(isochrone, run: Path) -> None:
    os.truncate(run / "checkpoints/00000006/weights.safetensors", 99)
    done = isochrone("eval", run, "--no-figures", "--eval.pairs", 0)
    assert done.code == 0, done.err
    words = "checkpoint 00000006 (weights.safetensors: it has 99 bytes, manifest.json says"
    assert f"warning: {words}" in done.err
    assert "is damaged: step 3 is used" in done.err
    about = json.loads((run / "results.json").read_text())["about"]
    assert about["step"] == 3
    assert about["damaged"][0].startswith("00000006 (weights.safetensors: it has 99 bytes")
    done = isochrone("train", "--resume", run)
    assert done.code == 0
    assert "is damaged: step 3 is used" in done.err


def test_a_refused_resume_leaves_the_run_as_it_was(isochrone, run: Path) -> None:
    """Whatever the reason is: a config, a replay or a file beside them."""
    for name, text in (
        ("config.json", "[]"),
        ("spec.json", "{}"),
        ("versions.json", "null"),
        ("metrics.jsonl", "[]\n"),
        ("replay/replay.json", '{"version": 3}'),
        ("replay/complete.json", "{}"),
        ("replay/cursor.json", "{}"),
    ):
        kept = (run / name).read_text()
        (run / name).write_text(text)
        before = contents(run)
        refused(isochrone("train", "--resume", run), Path(name).name)
        assert {k: v for k, v in contents(run).items()} == before, name
        (run / name).write_text(kept)


@pytest.mark.slow
def test_a_config_that_was_changed_is_said_to_be(isochrone, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["eval"]["seed"]
    (run / "config.json").write_text(json.dumps(config))
    done = isochrone("eval", run, "--no-figures", "--eval.pairs", 0)
    assert done.code == 0
    assert "config.json lacks eval.seed: the defaults" in done.err
    assert "config.json was changed after step 6" in done.err
    config["eval"]["episodes"] = "4"
    (run / "config.json").write_text(json.dumps(config))
    refused(isochrone("eval", run), "config.json: eval.episodes = '4': must be a whole number")


def test_the_lock_is_not_written_through_a_link(isochrone, run: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    for name in ("lock", "lock.holder"):
        notes.write_text("mine")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(notes)
        refused(isochrone("train", "--resume", run), f"{name} is a link")
        assert notes.read_text() == "mine"
        (run / name).unlink()


@pytest.mark.parametrize("name", ["checkpoints", "figures", "replay"])
def test_a_folder_that_is_a_link_is_not_written_through(isochrone, run: Path, tmp_path: Path, name: str) -> None:
    if (run / name).exists():
        shutil.move(run / name, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    refused(isochrone("train", "--resume", run), f"{name} is a link")
    assert contents(tmp_path / "elsewhere") == before


def test_a_drive_without_locks_is_used_with_a_warning(trained: Path, run: Path, monkeypatch, caplog) -> None:
    import fcntl

    def refuse(handle: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Run.open(run) as opened:
        assert opened.config
    assert "has no locks (Function not implemented)" in caplog.text

    def busy(handle: int, how: int) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(fcntl, "flock", busy)
    with pytest.raises(UserError, match="is in use by"):
        Run.open(run)


def _read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a drive that is mounted for reading (root may write to any other)."""
    real_open, real_mkdir, real_unlink = os.open, os.mkdir, os.unlink
    inside = lambda path: str(path).startswith(str(folder))  # noqa: E731

    def refuse(path, *args, **more):
        raise OSError(30, "Read-only file system", str(path))

    def opening(path, flags, *args, **more):
        return (
            refuse(path)
            if inside(path) and flags & (os.O_WRONLY | os.O_RDWR)
            else real_open(path, flags, *args, **more)
        )

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "mkdir", lambda p, *a, **m: refuse(p) if inside(p) else real_mkdir(p, *a, **m))
    monkeypatch.setattr(os, "unlink", lambda p, *a, **m: refuse(p) if inside(p) else real_unlink(p, *a, **m))


@pytest.mark.slow
def test_a_run_on_a_read_only_drive_is_measured(isochrone, run: Path, monkeypatch) -> None:
    want = isochrone("eval", run, "--eval.pairs", 0, "--no-figures", "--json")
    before = contents(run)
    _read_only(run, monkeypatch)
    done = isochrone("eval", run, "--eval.pairs", 0, "--json")
    assert done.code == 0
    assert "the results are not kept in the run" in done.err
    assert "Read-only file system" in done.err
    assert json.loads(done.out) == json.loads(want.out)
    refused(isochrone("report", run), "report.html cannot be written: Read-only file system")
    refused(isochrone("train", "--resume", run), "cannot be written")
    assert contents(run) == before


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """A run on a recording."""
    from isochrone.cli import run as command

    folder = tmp_path_factory.mktemp("recorded")
    words = ["--data.num-envs", "4", "--data.rows", "25", "--env.episode-length", "24"]
    assert command(["data", "collect", "tiny", "--out", str(folder / "my.h5"), *words]) == 0
    words = ["--data", str(folder / "my.h5"), "--run", str(folder / "run"), "--train.steps", "2", "--then", ""]
    assert command(["train", "tiny", *small, *words]) == 0
    return folder / "run"


@pytest.mark.slow
def test_eval_without_the_replay_leaves_the_old_results(isochrone, recorded: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(recorded, tmp_path / "run"))
    assert isochrone("eval", run, "--no-figures").code == 0
    before = (run / "results.json").read_bytes()
    shutil.rmtree(run / "replay")
    refused(isochrone("eval", run), "the replay of", "was deleted", "--env whitebox:MAP")
    assert (run / "results.json").read_bytes() == before


@pytest.mark.slow
def test_a_map_file_is_part_of_the_run(isochrone, small, tmp_path: Path, monkeypatch) -> None:
    drawing = ".....#...\n.A...>...\n.....#.A.\n##.#####.\n.........\n"
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    monkeypatch.chdir(home)
    Path("my.txt").write_text(drawing)
    words = [*small, "--train.steps", 2, "--env.map-file", "my.txt", "--run", "run", "--then", ""]
    assert isochrone("train", "tiny", *words).code == 0
    want = isochrone("eval", "run", "--no-figures", "--json", "--eval.pairs", 0)
    Path("my.txt").write_text(".........\n" * 5)
    shutil.move("run", away / "moved")
    monkeypatch.chdir(away)
    done = isochrone("eval", "moved", "--no-figures", "--json", "--eval.pairs", 0)
    assert done.out == want.out
    assert "as my.txt was when the run began" in done.err
    (away / "moved" / "map.txt").unlink()
    refused(isochrone("eval", "moved"), "map.txt, is missing", "--env.map-file FILE")
    assert isochrone("eval", "moved", "--env.map-file", home / "my.txt", "--no-figures", "--eval.pairs", 0).code == 0


def test_figures_that_are_no_images_are_not_put_into_the_report(isochrone, run: Path, tmp_path: Path) -> None:
    folder = run / "figures" / "00000006"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "isochrone.png").write_text("a secret")
    refused(isochrone("report", run), "isochrone.png is no PNG image")
    (folder / "isochrone.png").unlink()
    (tmp_path / "secret").write_bytes(b"\x89PNG\r\n\x1a\n a secret")
    (folder / "isochrone.png").symlink_to(tmp_path / "secret")
    refused(isochrone("report", run), "isochrone.png is a link")
    (folder / "isochrone.png").unlink()
    os.mkfifo(folder / "isochrone.png")
    refused(isochrone("report", run), "isochrone.png is a pipe")


def test_doctor_names_what_is_damaged_in_a_run(isochrone, run: Path) -> None:
    done = isochrone("doctor", run)
    assert done.code == 0, done.out
    harm(run / "replay" / "obs_image.npy", -4000)
    harm(run / "checkpoints/00000006/weights.safetensors")
    done = isochrone("doctor", run, "--json")
    assert done.code == 1
    damaged = {row["what"]: row["says"] for row in json.loads(done.out) if row["state"] == "damaged"}
    assert list(damaged) == ["replay", "checkpoint 6"]
    assert "checksum" in damaged["replay"]
    refused(isochrone("train", "--resume", run), "replay", "is damaged", "restore")


def test_weights_that_are_not_finite_are_refused(isochrone, run: Path) -> None:
    import torch
    from safetensors.torch import load_file, save

    folder = run / "checkpoints/00000006"
    weights = load_file(folder / "weights.safetensors")
    name = next(iter(weights))
    for value in (torch.nan, torch.inf):
        data = save({**weights, name: torch.full_like(weights[name], value)})
        (folder / "weights.safetensors").write_bytes(data)
        about = json.loads((folder / "manifest.json").read_text())
        about["files"]["weights.safetensors"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(about))
        refused(isochrone("eval", run), f"'{name}' is not finite")
        refused(isochrone("train", "--resume", run), f"'{name}' is not finite")


@pytest.mark.parametrize("kind", ["env", "model", "planner", "compare_planners", "agent", "loss", "gym"])
def test_code_that_a_config_names_is_not_imported(isochrone, run: Path, tmp_path: Path, monkeypatch, kind: str) -> None:
    (tmp_path / "box.py").write_text(f"open({str(tmp_path / 'IMPORTED')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = json.loads((run / "config.json").read_text())
    if kind == "compare_planners":
        config[kind] = ["box:Thing"]
    elif kind == "loss":
        config["loss"]["box:Thing"] = config["loss"]["jepa"]
    elif kind == "gym":
        config["env"] = {"name": "gym", "id": "box:X-v0"}
    else:
        (config["agent"]["planner"] if kind == "planner" else config[kind])["name"] = "box:Thing"
    (run / "config.json").write_text(json.dumps(config))
    for words in (["eval", run], ["plan", run], ["report", run], ["doctor", run], ["train", "--resume", run]):
        done = isochrone(*words)
        assert done.code == (1 if words[0] == "doctor" else 2)
        assert "the module 'box'" in done.out + done.err
    assert not (tmp_path / "IMPORTED").exists()


def test_control_characters_of_a_file_do_not_reach_the_terminal(isochrone, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["recipe"] = "\x1b[31m" + "red" * 2000
    config["\x1b]0;title\x07\n"] = 1
    (run / "config.json").write_text(json.dumps(config))
    for words in (["eval", run], ["doctor", run], ["train", "--resume", run]):
        done = isochrone(*words)
        assert all(c.isprintable() or c == "\n" for c in done.out + done.err)
        assert max(map(len, done.err.splitlines()), default=0) < 2100


@pytest.mark.slow
def test_a_few_damages_of_every_kind(trained: Path, tmp_path: Path) -> None:
    """The small version of bench/fuzz_files.py."""
    from bench import fuzz_files

    bench = fuzz_files.Bench.__new__(fuzz_files.Bench)
    bench.folder, bench.run, bench.collecting = tmp_path, trained, trained
    bench.recording = fuzz_files.make_recording(tmp_path / "good.h5")
    shutil.copytree(trained, tmp_path / "measured")
    assert fuzz_files.call(["eval", str(tmp_path / "measured"), "--no-figures"]).code == 0
    bench.run = bench.collecting = tmp_path / "measured"
    wanted = fuzz_files.numbers(bench.run), fuzz_files.weights(bench.run)
    bench.wanted, bench.rows = {bench.run: wanted}, fuzz_files.read_all(bench.recording)
    rows = [bench.case(random.Random(7).randrange(10**6) + number) for number in range(30)]
    assert [row for row in rows if row["fault"]] == []
