"""Bad input of every kind ends with code 2 and one sentence that names the thing, the value and the mend."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest

from isochrone.core import files
from isochrone.training.run import Run


def refused(said, *words: str) -> None:
    """Code 2, nothing on standard output, and one last line that holds all `words`."""
    assert said.code == 2, said
    sentence = said.err.strip().splitlines()[-1]
    assert sentence.startswith("isochrone: ")
    assert "Traceback" not in said.err
    for word in words:
        assert word in sentence, sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--train.steps", "0"], ["train.steps = 0", "at least 1"]),
        (["--loss.jepa", "-1"], ["loss.jepa.weight = -1", "at least 0"]),
        (["--loss.japa", "1"], ["did you mean 'jepa'"]),
        (["--train.stepz", "9"], ["unknown option", "did you mean 'steps'"]),
        (["--optim.model.lr", "fast"], ["optim.model.lr = 'fast'", "must be a number"]),
        (["--env", "whitebox:pipez"], ["no map called 'pipez'", "did you mean 'pipes'"]),
        (["--env", "gym:Nothing-v0"], ["Nothing-v0"]),
        (["--planner", "cam"], ["no planner called 'cam'", "cem"]),
        (["--compare-planners", "cem,astra"], ["no planner called 'astra'", "astar"]),
        (["--env.actions", "continuous"], ["astar", "discrete", "cem"]),
        (["--data.budget-mb", "1"], ["data.budget_mb = 1", "raise the budget"]),
        (["--agent.replan-every", "99"], ["replan_every = 99", "horizon"]),
        (["--train.length", "50"], ["train.length = 50: no history in the replay is that long"]),
        (["--term.reach_p.slack", "0.3"], ["unknown option 'term'", "did you mean 'loss.reach_p.settings.slack'"]),
        (["--after.jepa", "0.3"], ["unknown option 'after'", "did you mean 'loss.jepa'"]),
        (["--loss.jepa.start", "0.9"], ["loss.jepa.start = 0.9", "start must be less than stop"]),
        (["--loss.vicreg.settings.rows", "8"], ["give it a weight too (loss.vicreg=VALUE)"]),
        (["--data.collect-every", "2", "--data", "my.h5"], ["collect_every", "recording"]),
        (["-x"], ["two dashes"]),
        (["extra"], ["give one recipe", "extra"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_options_are_refused(isochrone, small, tmp_path: Path, options: list[str], words: list[str]) -> None:
    run = tmp_path / "r"
    refused(isochrone("train", "tiny", *small, "--run", run, *options), *words)
    assert not run.exists(), "a run that is refused leaves no folder"


DRAWINGS = {
    "no free cell": ("###\n###\n", "no free cell"),
    "empty": ("\n", "is empty"),
    "pipe to nowhere": (".A.\n...\n", "pipe 'A' has 1 end"),
    "strange": (".?.\n", "unknown character '?'"),
    "ragged": ("...\n..\n", "equally long"),
}


@pytest.mark.parametrize("kind", DRAWINGS)
def test_bad_maps_are_refused(isochrone, small, tmp_path: Path, kind: str) -> None:
    drawing, words = DRAWINGS[kind]
    (tmp_path / "m.txt").write_text(drawing)
    refused(isochrone("train", "tiny", *small, "--run", tmp_path / "r", "--env.map-file", tmp_path / "m.txt"), words)
    refused(isochrone("train", "tiny", "--env.map-file", tmp_path / "none.txt"), "none.txt", "cannot be read")
    assert not (tmp_path / "r").exists()


def test_an_env_without_pixels_is_refused(isochrone, tmp_path: Path) -> None:
    class Blind(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (3,))
        action_space = gymnasium.spaces.Discrete(2)
        metadata = {"render_modes": []}

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return np.zeros(3, np.float32), 0.0, False, False, {}

    gymnasium.register("Sightless-v0", Blind)
    refused(isochrone("train", "tiny", "--run", tmp_path / "r", "--env", "gym:Sightless-v0"), "Sightless-v0", "pixels")


# --- recordings


def _break_dtype(file: h5py.File) -> None:
    image = file["obs/image"][:].astype(np.float32)
    del file["obs/image"]
    file["obs/image"] = image


def _break_shape(file: h5py.File) -> None:
    image = file["obs/image"][:].transpose(0, 2, 3, 1)
    del file["obs/image"]
    file["obs/image"] = image


def _break_lengths(file: h5py.File) -> None:
    reward = file["reward"][:-3]
    del file["reward"]
    file["reward"] = reward


def _one_row(file: h5py.File) -> None:
    file["lengths"][...] = [1, int(file["lengths"][:].sum()) - 1]


def _set(name: str, value: float) -> Callable[[h5py.File], None]:
    def act(file: h5py.File) -> None:
        file[name][5] = value

    return act


BROKEN = {
    "dtype": (_break_dtype, "obs/image is float32, must be uint8"),
    "shape": (_break_shape, "transpose"),
    "reward": (_set("reward", np.nan), "reward is nan at row 5"),
    "action": (_set("action", 0.5), "out of range"),
    "lengths": (_break_lengths, "unequal lengths"),
    "one row": (_one_row, "has length 1"),
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from isochrone.cli import run

    path = tmp_path_factory.mktemp("recording") / "good.h5"
    words = ["--data.num-envs", "2", "--data.rows", "20", "--env.episode-length", "19"]
    assert run(["data", "collect", "tiny", "--out", str(path), *words]) == 0
    return path


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_recordings_are_refused(isochrone, small, recording: Path, tmp_path: Path, kind: str) -> None:
    path = Path(shutil.copy(recording, tmp_path / "bad.h5"))
    with h5py.File(path, "r+") as file:
        BROKEN[kind][0](file)
    refused(isochrone("data", "validate", path), "bad.h5", BROKEN[kind][1])
    refused(isochrone("train", "tiny", *small, "--run", tmp_path / "r", "--data", path), "bad.h5", BROKEN[kind][1])
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_recordings_are_refused(isochrone, recording: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(recording.read_bytes()[:3000])
    refused(isochrone("train", "tiny", "--data", cut), "cut.h5 is truncated")
    refused(isochrone("train", "tiny", "--data", tmp_path / "none.h5"), "none.h5: no such file")
    refused(isochrone("train", "tiny", "--data", tmp_path / "my.zip"), ".zip", "formats hdf5")
    refused(
        isochrone("data", "collect", "tiny", "--out", tmp_path / "a.h5", "--data.rows", 5), "no episode is complete"
    )
    refused(isochrone("data", "valdate", cut), "no 'valdate'", "did you mean 'validate'")


# --- runs


def test_bad_run_folders_are_refused(isochrone, small, trained: Path, tmp_path: Path) -> None:
    refused(isochrone("train", "tiny", *small, "--run", trained), "already contains a run", "--resume")
    refused(isochrone("train", "--resume", tmp_path / "none"), "contains no run")
    refused(isochrone("train", "--resume", trained, "--train.steps", 9), "leave out --train.steps")
    refused(isochrone("eval", tmp_path), "contains no run")
    refused(isochrone("eval", trained, "--optim.model.lr", 1), "'optim.model.lr' cannot be changed after training")
    refused(isochrone("eval"), "give one run folder")
    refused(isochrone("report", tmp_path / "none"), "contains no run")
    refused(isochrone("tarin"), "did you mean 'train'")
    refused(isochrone("train", "teny"), "no recipe called 'teny'", "did you mean 'tiny'")
    refused(isochrone("list", "maps"), "did you mean 'map'")


def test_a_folder_in_use_is_refused(isochrone, trained: Path) -> None:
    with Run.open(trained):
        refused(isochrone("train", "--resume", trained), "is in use by process")


def test_a_checkpoint_of_another_model_is_refused(isochrone, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["model"]["z"] = 12
    (run / "config.json").write_text(json.dumps(config))
    refused(isochrone("eval", run), "holds another learner", "use the config that it was trained with")
    refused(isochrone("train", "--resume", run), "holds another learner")


def test_a_run_without_a_checkpoint_is_refused(isochrone, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    refused(isochrone("eval", run), "no complete checkpoint")


def test_a_full_disk_keeps_the_checkpoint_before(isochrone, small, tmp_path: Path, monkeypatch) -> None:
    write, left = files.write_synced, [6]

    def filling(path: Path, data: bytes) -> None:
        if ".tmp" in str(path) and "checkpoints" in str(path):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    run = tmp_path / "r"
    monkeypatch.setattr(files, "write_synced", filling)  # two checkpoints of three files fit
    words = ["--run", run, "--train.steps", 6, "--train.save-every", 2, "--then", ""]
    refused(isochrone("train", "tiny", *small, *words), "disk is full", "checkpoints before it are intact")
    monkeypatch.undo()
    assert sorted(f.name for f in (run / "checkpoints").iterdir()) == ["00000000", "00000002"]
    assert isochrone("train", "--resume", run).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--start", "4,5", "--goal", "4,5"], "nothing to plan"),
        (["--start", "4"], "column,row"),
        (["--start", "99,1"], "outside the frame"),
        (["--goal", "0,0"], "is a wall"),
        (["--strat", "1,1"], "did you mean 'start'"),
    ],
)
def test_bad_plan_requests_are_refused(isochrone, trained: Path, words: list[str], said: str) -> None:
    refused(isochrone("plan", trained, *words), said)


def test_a_goal_that_cannot_be_reached(isochrone, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("..#..\n")
    words = ["--env.map-file", tmp_path / "m.txt", "--start", "5,7", "--goal", "9,7"]
    refused(isochrone("plan", trained, *words), "cannot be reached")


def test_planning_needs_a_white_box(isochrone, trained: Path) -> None:
    refused(isochrone("plan", trained, "--env", "counter"), "no ground truth to plan with")


# --- losses


def test_the_running_sum_is_refused_and_forced_it_is_named(isochrone, small, tmp_path: Path) -> None:
    words = [*small, "--run", tmp_path / "r", "--train.steps", 1, "--optim.model.warmup", 0, "--env", "whitebox:cabin"]
    refused(isochrone("train", "zhp_summed_pose", *words), "additivity_dp", "summed", "--allow-dead-losses")
    assert not (tmp_path / "r").exists()
    done = isochrone("train", "zhp_summed_pose", *words, "--allow-dead-losses")
    assert done.code == 0
    for name in ("additivity_dp", "rollout_kstep_p"):
        assert f"warning: '{name}' is an identity" in done.err


def test_a_dead_loss_is_an_error_and_leaves_no_run(isochrone, small, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text(".\n")  # one cell: nothing ever moves
    words = [
        "--run",
        tmp_path / "r",
        "--env.map-file",
        tmp_path / "m.txt",
        "--train.steps",
        1,
        "--optim.model.warmup",
        0,
    ]
    refused(isochrone("train", "tiny", *small, *words), "--allow-dead-losses")
    assert not (tmp_path / "r").exists()
