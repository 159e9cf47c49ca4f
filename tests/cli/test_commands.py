"""Every command on a very small run: what it prints, what it writes, and that help says it all."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from isochrone.cli import COMMANDS
from isochrone.core import registry

pytestmark = pytest.mark.slow


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, free to be written to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_is_a_folder(trained: Path) -> None:
    for name in ("config.json", "spec.json", "versions.json", "metrics.jsonl", "checkpoints/00000006/manifest.json"):
        assert (trained / name).is_file(), name
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 2
    assert "loss/recon_multi_box" in rows[0]
    watched = [row for row in rows if "holdout.loss" in row][-1]
    assert watched["step"] == 6
    assert "reach.mae" in [name for row in rows for name in row]


def test_training_says_what_it_does(isochrone, small: list[str], tmp_path: Path) -> None:
    done = isochrone("train", "tiny", *small, "--run", tmp_path / "r", "--train.steps", 2, "--then", "")
    assert done.code == 0
    assert done.out == ""
    for words in ("replay: 8 environments x 40 rows = 320 frames", "every loss is alive", "training on cpu, 1 thread"):
        assert words in done.err
    assert all(len(line) <= 80 for line in done.err.splitlines() if line.startswith("step"))
    assert f"next: isochrone eval {tmp_path / 'r'}" in done.err


def test_the_default_folder_is_the_first_free_one(isochrone, small, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny-1").mkdir(parents=True)
    done = isochrone("train", "tiny", *small, "--train.steps", 1, "--optim.model.warmup", 0, "--then", "report")
    assert done.code == 0
    assert (tmp_path / "runs" / "tiny-2" / "report.html").is_file()
    assert done.out.strip() == str(Path("runs/tiny-2/report.html"))


def test_eval_plan_and_report(isochrone, run_folder: Path) -> None:
    done = isochrone("eval", run_folder, "--compare-planners", "astar", "--agent.replan-every", 3)
    assert done.code == 0
    for words in ("Does it predict?", "Is z perceptual?", "Is p reachability?", "Can one plan here?", "astar"):
        assert words in done.out
    for words in ("replay", "random", "losses on held-out"):
        assert words in done.out
    assert max(map(len, done.out.splitlines())) <= 96
    about = json.loads((run_folder / "results.json").read_text())["about"]
    assert about["step"] == 6
    assert about["env"]["map"] == "cabin"
    assert (run_folder / "figures/00000006/isochrone.png").is_file()
    assert (run_folder / "figures/00000006/isochrone.dark.png").is_file()

    done = isochrone("report", run_folder)
    html = (run_folder / "report.html").read_text()
    assert done.code == 0
    assert done.out.strip() == str(run_folder / "report.html")
    assert not re.search(
        r"""(?:src|href|srcset)=["']?\s*(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import|<script""", html
    )
    for words in ("Does it predict?", "as declared", "recipe tiny", "prefers-color-scheme"):
        assert words in html


def test_eval_writes_json(isochrone, run_folder: Path) -> None:
    done = isochrone("eval", run_folder, "--json", "--eval.pairs", 0, "--env", "whitebox:corridor", "--no-figures")
    assert not (run_folder / "figures").exists()
    found = json.loads(done.out)
    assert found["reach.mae"]["value"] > 0
    assert not any(name.startswith("planning") for name in found)
    assert json.loads((run_folder / "results.json").read_text())["about"]["env"]["map"] == "corridor"


@pytest.mark.parametrize("planner", ["astar", "shooting"])
def test_plan_writes_a_film(isochrone, run_folder: Path, planner: str) -> None:
    done = isochrone("plan", run_folder, "--start", "4,5", "--goal", "6,5", "--planner", planner, "--json")
    told = json.loads(done.out)
    assert done.code == 0
    assert told["start"] == [4, 5]
    assert told["goal"] == [6, 5]
    assert told["fewest"] == 2
    assert told["planner"] == planner
    assert told["steps"] <= 2 * 2 + 8
    with Image.open(told["gif"]) as film:
        assert film.format == "GIF"
        assert film.n_frames >= told["steps"]
        assert film.size[0] > 600


def test_plan_chooses_the_farthest_pair(isochrone, run_folder: Path, tmp_path: Path) -> None:
    done = isochrone("plan", run_folder, "--out", tmp_path / "a" / "b.gif")
    assert done.code == 0
    assert (tmp_path / "a" / "b.gif").is_file()
    assert re.search(r"astar from \d+,\d+ to \d+,\d+: (reached|not reached)", done.out)


def test_an_exported_recording_can_be_trained_on(isochrone, small: list[str], tmp_path: Path) -> None:
    h5, run = tmp_path / "my.h5", tmp_path / "r"
    collected = isochrone("data", "collect", "tiny", "--out", h5, "--data.num-envs", 4, "--data.rows", 101)
    assert collected.code == 0
    assert collected.out.startswith("4 episodes in")
    assert "can be used for training" in isochrone("data", "validate", h5).out
    assert json.loads(isochrone("data", "info", h5, "--json").out)["rows"] == 404
    assert isochrone("data", "collect", "tiny", "--out", h5).code == 2

    done = isochrone("train", "tiny", *small, "--run", run, "--data", h5, "--train.steps", 2, "--then", "eval,report")
    assert done.code == 0
    assert re.search(r"losses on held-out", done.out)
    assert "without ground truth" in done.err
    h5.unlink()  # the run holds its own copy
    assert isochrone("train", "--resume", run).code == 0
    done = isochrone("eval", run, "--env", "whitebox:cabin", "--eval.pairs", 0, "--no-figures")
    assert done.code == 0
    assert "Is p reachability?" in done.out


def test_a_map_of_ones_own(isochrone, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("...\n.#.\n...\n")
    words = ["--run", tmp_path / "r", "--env.map-file", tmp_path / "my.txt", "--train.steps", 2, "--then", "plan"]
    assert isochrone("train", "tiny", *small, *words).code == 0


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_of_every_command(isochrone, name: str) -> None:
    done = isochrone(name, "--help")
    assert done.code == 0
    assert f"isochrone {name}" in done.out
    assert done.err == ""
    assert max(map(len, done.out.splitlines())) <= 120


def test_help_of_the_program(isochrone) -> None:
    done = isochrone("--help")
    assert done.code == 0
    assert all(name in done.out for name in COMMANDS)
    assert isochrone().code == 2
    assert isochrone("--version").out.startswith("isochrone ")


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_help_of_a_recipe_lists_every_option(isochrone, name: str) -> None:
    done = isochrone("train", name, "--help", "--train.steps", 777)
    for words in (
        "--train.steps 777",
        "optimiser steps in all [≥ 1]",
        *(f"--loss.{loss.replace('_', '-')} " for loss in registry.get("recipe", name)().loss),
        *(f"--model.{f.name.replace('_', '-')} " for f in dataclasses.fields(registry.get("recipe", name)().model)),
    ):
        assert words in done.out


def test_list_and_doctor(isochrone) -> None:
    assert "cabin" in isochrone("list", "map").out
    assert "astar" in isochrone("list").out
    assert set(json.loads(isochrone("list", "recipe", "--json").out)["recipe"]) == set(registry.names("recipe"))
    done = isochrone("doctor", "--json")
    assert done.code == 0
    assert "missing" not in [check["state"] for check in json.loads(done.out)]


@pytest.mark.slow
def test_eval_does_not_depend_on_the_order_of_planners(isochrone, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    small = ["--eval.pairs", "3", "--no-figures", "--json"]

    def results(planners: str) -> dict[str, object]:
        done = isochrone("eval", tmp_path / "run", "--compare-planners", planners, *small)
        assert done.code == 0, done.err
        return {key: entry for key, entry in json.loads(done.out).items() if "seconds" not in key}

    both, other, alone = results("cem,shooting"), results("shooting,cem"), results("shooting")
    assert both == other
    shared = [key for key in alone if ".best." not in key]
    assert {key: both[key] for key in shared} == {key: alone[key] for key in shared}
    assert any(key.startswith("planning.shooting.") for key in shared)
