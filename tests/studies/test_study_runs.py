"""A miniature study that trains: missing cells are run, a killed one resumes, a failed one does not stop others."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from studies.harness import cell, page, result, runner

from isochrone.training import checkpoint

STUDY = """
from studies.harness.study import Cell, Study

FEW = {"train.steps": "STEPS", "optim.model.warmup": "0", "train.save_every": "20", "train.batch": "2",
       "data.num_envs": "4",
       "data.rows": "30", "env.episode_length": "14", "eval.episodes": "4", "eval.length": "12", "eval.horizon": "2",
       "eval.pairs": "3", "eval.budget": "2", "agent.planner.expansions": "4"}
NOTHING = {**FEW, "train.length": "200"}  # more rows than there are: cannot be trained

STUDY = Study(
    title="miniature",
    question="Does it run?",
    cells=[
        Cell("good-0", "tiny", {"compare_planners": "shooting"}, 0, "good"),
        Cell("bad-0", "tiny", NOTHING, 0, "bad"),
    ][:CELLS],
    roles={"good": "it runs", "bad": "it cannot"},
    changes=FEW,
)
"""


def make(root: Path, steps: int = 4, count: int = 2) -> Path:
    folder = root / "studies" / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.py").write_text(STUDY.replace("STEPS", str(steps)).replace("CELLS", str(count)))
    return root


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def start(root: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test, however it ends."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_missing_cells_are_run_and_a_failed_one_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path)
    caplog.set_level(logging.INFO)
    text, lines = runner.run("mini", root), caplog.messages
    assert states(root) == ["done", "missing"]
    assert "failed: bad-0" in text
    assert "it runs: 1 of 1 seeds" in text
    assert any("good-0: done in" in line for line in lines)
    failure = next(i for i, line in enumerate(lines) if "bad-0: failed" in line)
    assert any(line.startswith("  | ") and "200" in line for line in lines[failure:]), lines
    assert page.page_path(root, "mini").exists()
    assert page.index_path(root).exists()
    stored = json.loads(result.path_of(root, "mini", "good-0").read_text())
    [pairs] = stored["pairs"].values()
    assert sum(pairs.values()) == 3
    assert stored["values"]["planning.replay.success"]["value"] is not None
    assert stored["values"]["seconds.train"]["value"] > 0
    assert stored["machine"]["threads"] == 1
    folder = root / "runs" / "study-mini" / "good-0"
    assert not (folder / "replay").exists()
    assert (folder / "checkpoints").exists()

    make(root, count=1)  # without the cell that fails
    before = result.path_of(root, "mini", "good-0").read_bytes()
    make(root, steps=6, count=1)  # another config
    caplog.clear()
    assert "it runs: 1 of 1 seeds †" in runner.run("mini", root)
    assert "0 to run" in caplog.messages[0]
    assert result.path_of(root, "mini", "good-0").read_bytes() == before
    cell.measure("mini", "good-0", root)  # as with `fresh`: the run folder of the old config is replaced
    assert states(root) == ["done"]
    assert checkpoint.steps(folder / "checkpoints")[-1] == 6


def states(root: Path) -> list[str]:
    return [entry["state"] for entry in runner.cells("mini", root)]


@pytest.mark.slow
def test_a_killed_cell_resumes(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    root = make(tmp_path, steps=120, count=1)
    folder = root / "runs" / "study-mini" / "good-0"
    process = start(root, "-m", "studies.harness.cell", "mini", "good-0")
    started.append(process)
    wait_for(lambda: any(step > 0 for step in _steps(folder)), process)
    process.kill()
    process.wait()
    last = _steps(folder)[-1]
    assert 0 < last < 120
    assert states(root) == ["missing"]
    assert cell.measure("mini", "good-0", root) == ""
    resumed = json.loads((folder / "versions.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [last]
    assert states(root) == ["done"]
    assert _steps(folder)[-1] == 120


def _steps(folder: Path) -> list[int]:
    return checkpoint.steps(folder / "checkpoints") if (folder / "checkpoints").exists() else []


@pytest.mark.slow
def test_ctrl_c_stops_the_cells_with_a_checkpoint(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    root = make(tmp_path, steps=1_000_000, count=1)
    folder = root / "runs" / "study-mini" / "good-0"
    process = start(root, "-m", "studies", "mini", "--jobs", "1")
    started.append(process)
    wait_for(lambda: any(step > 0 for step in _steps(folder)), process)
    holder = int((folder / "lock.holder").read_text().split()[1])
    process.send_signal(signal.SIGINT)
    assert process.wait(200) == 130
    assert not _alive(holder)
    assert checkpoint.latest(folder / "checkpoints") is not None
    assert states(root) == ["missing"]


def test_a_cell_ends_when_its_runner_is_killed(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    written = tmp_path / "pid"
    child = (
        "import os, pathlib, time\n"
        "from studies.harness.cell import exit_with_parent\n"
        "exit_with_parent(0.01)\n"
        f"pathlib.Path({str(written)!r}).write_text(str(os.getpid()) + '.')\n"
        "time.sleep(200)"
    )
    process = start(tmp_path, "-c", f"import subprocess, sys; subprocess.call([sys.executable, '-c', {child!r}])")
    started.append(process)
    wait_for(lambda: written.exists() and written.read_text().endswith("."), process)
    number = int(written.read_text().removesuffix("."))
    assert _alive(number)
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while _alive(number) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _alive(number)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_negative_control_stores_what_is_wrong_with_its_losses(tmp_path: Path) -> None:
    from dataclasses import replace

    from isochrone.workflows import dataset, factory

    few = {"data.num_envs": "4", "data.rows": "60", "train.batch": "4", "allow_dead_losses": "true"}
    config = factory.make_config("zhp_summed_pose", few)
    config = replace(config, model=replace(config.model, z=8, h=16, p=8, hidden=32))
    values, messages = cell.check_forced(config, dataset.fill_replay(config, None))
    faulty = {k.removeprefix("control.faulty.") for k, e in values.items() if k.startswith("control.f") and e["value"]}
    assert {"additivity_dp", "rollout_kstep_p"} <= faulty
    assert values["control.refused"]["value"] == 1
    assert "--allow-dead-losses" in messages["refused"]
    assert any("'additivity_dp' is an identity" in fault for fault in messages["liveness"])
