"""A miniature study, really run: missing cells are filled, a killed one goes on, a failed one stops nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from studies.harness import cell as cells
from studies.harness import orphan, result, runner

from isochrone.train import checkpoint

STUDY = """
from studies.harness.study import Cell, Study

FEW = {"train.steps": "STEPS", "train.warmup": "0", "train.save_every": "20", "train.batch": "2", "data.num_envs": "4",
       "data.rows": "30", "env.episode_length": "14", "eval.episodes": "4", "eval.length": "12", "eval.horizon": "2",
       "eval.pairs": "3", "eval.budget": "2", "planner.expansions": "4"}
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


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


def start(root: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test, however it ends."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def test_missing_cells_are_run_and_a_failed_one_stops_nobody(tmp_path: Path) -> None:
    root, said = make(tmp_path), []
    told = runner.run("mini", 2, said.append, root=root)
    assert [c["state"] for c in runner.cells("mini", root)] == ["done", "missing"]
    assert "failed: bad-0" in told and "it runs: 1 of 1 seeds" in told
    assert any("good-0: done in" in line for line in said)
    place = next(i for i, line in enumerate(said) if "bad-0: failed" in line)
    assert any(line.startswith("  | isochrone: ") and "200" in line for line in said[place:]), said
    assert "<!-- study:mini -->" in (root / "docs" / "evidence.md").read_text()
    found = json.loads(result.path_of(root, "mini", "good-0").read_text())
    assert {"lattice|shooting"} == set(found["pairs"]) and sum(found["pairs"]["lattice|shooting"].values()) == 3
    assert found["values"]["planning.replay.success"]["value"] is not None
    assert found["values"]["seconds.train"]["value"] > 0 and found["machine"]["threads"] == 1
    folder = root / "runs" / "study-mini" / "good-0"
    assert not (folder / "replay").exists() and (folder / "checkpoints").exists()

    make(root, count=1)  # without the cell that fails, and one changed since
    before = result.path_of(root, "mini", "good-0").read_bytes()
    assert "0 to run" in _first(root)
    make(root, steps=6, count=1)
    assert "0 to run" in _first(root) and "it runs: 1 of 1 seeds †" in runner.run("mini", 1, root=root)
    assert result.path_of(root, "mini", "good-0").read_bytes() == before
    cells.measure("mini", "good-0", root)  # what `fresh` starts: the old run folder is of another config, and goes
    assert [c["state"] for c in runner.cells("mini", root)] == ["done"]
    assert checkpoint.steps(folder / "checkpoints")[-1] == 6


def _first(root: Path) -> str:
    said: list[str] = []
    runner.run("mini", 1, said.append, root=root)
    return said[0]


def test_a_killed_cell_goes_on(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    root = make(tmp_path, steps=120, count=1)
    folder = root / "runs" / "study-mini" / "good-0"
    process = start(root, "-m", "studies.harness.cell", "mini", "good-0")
    started.append(process)
    wait_for(lambda: any(step > 0 for step in _steps(folder)), process)
    process.kill()
    process.wait()
    reached = _steps(folder)[-1]
    assert 0 < reached < 120 and runner.cells("mini", root)[0]["state"] == "missing"
    assert cells.measure("mini", "good-0", root) == ""
    resumed = json.loads((folder / "versions.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [reached]
    assert runner.cells("mini", root)[0]["state"] == "done" and _steps(folder)[-1] == 120


def _steps(folder: Path) -> list[int]:
    return checkpoint.steps(folder / "checkpoints") if (folder / "checkpoints").exists() else []


def test_ctrl_c_stops_the_cells_with_a_checkpoint(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    root = make(tmp_path, steps=1_000_000, count=1)
    folder = root / "runs" / "study-mini" / "good-0"
    code = "import sys; from isochrone.cli import run; sys.exit(run(['study', 'mini', '--jobs', '1']))"
    process = start(root, "-c", code)
    started.append(process)
    wait_for(lambda: any(step > 0 for step in _steps(folder)), process)
    holder = int((folder / "lock").read_text().split()[1])
    process.send_signal(signal.SIGINT)
    assert process.wait(200) == 130 and not _alive(holder)
    assert checkpoint.latest(folder / "checkpoints") is not None
    assert runner.cells("mini", root)[0]["state"] == "missing"


def test_a_cell_ends_when_its_runner_is_killed(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    told = tmp_path / "pid"
    child = (
        "import os, pathlib, runpy, time\n"
        f"runpy.run_path({str(orphan.__file__)!r})['end_with_parent'](0.01)\n"
        f"pathlib.Path({str(told)!r}).write_text(str(os.getpid()) + '.')\n"
        "time.sleep(200)"
    )
    process = start(
        tmp_path, "-S", "-c", f"import subprocess, sys; subprocess.call([sys.executable, '-S', '-c', {child!r}])"
    )
    started.append(process)
    wait_for(lambda: told.exists() and told.read_text().endswith("."), process)
    number = int(told.read_text().removesuffix("."))
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


def test_the_negative_control_says_what_is_wrong(tmp_path: Path) -> None:
    from dataclasses import replace

    from isochrone.workflows import build

    few = {"data.num_envs": "4", "data.rows": "60", "train.batch": "4", "allow_dead_losses": "true"}
    config = build.recipe("zhp_summed_pose", few)
    config = replace(config, model=replace(config.model, z=8, h=16, p=8, hidden=32))
    values, sentences = cells.control(config, build.fill_replay(config, None))
    faulty = {k.removeprefix("control.faulty.") for k, e in values.items() if k.startswith("control.f") and e["value"]}
    assert {"additivity_dp", "rollout_kstep_p"} <= faulty and values["control.refused"]["value"] == 1
    assert "refused" in sentences["refused"] and "--allow-dead-losses" in sentences["refused"]
    assert any("'additivity_dp' is an identity" in fault for fault in sentences["liveness"])
