"""A pool of workers: the same rows as in one process, and failures are reported and recovered from."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from replaywindows import windows_at
from rogue import CALM, HANG, KILL, RAISE, WAIT, Rogue, Unstartable, broken, crowd, refused, uneven
from tree import ROOT

from isochrone.core.errors import UserError
from isochrone.core.protocols import VecEnv
from isochrone.core.types import Step
from isochrone.data.replay import ReplayBuffer
from isochrone.envs.counter import read
from isochrone.envs.env_pool import EnvPool
from isochrone.envs.local_envs import seed_of

SHARED = Path("/dev/shm")


def act(*what: int) -> torch.Tensor:
    """One-hot actions."""
    return torch.eye(5)[list(what)]


def assert_same(a: Step, b: Step) -> None:
    assert sorted(a.obs) == sorted(b.obs)
    for name in a.obs:
        assert torch.equal(a.obs[name], b.obs[name])
    for name in ("reward", "first", "last", "terminal"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_the_rows_are_those_of_stepping_the_environments_here(workers: int, rng: torch.Generator) -> None:
    pool, alone = EnvPool(Rogue, 5, workers), [Rogue(i) for i in range(5)]
    assert isinstance(pool, VecEnv)
    assert pool.spec == alone[0].spec
    for seed in (3, 3, 40):
        assert_same(pool.reset(seed), Step.cat([env.reset(seed + i) for i, env in enumerate(alone)]))
        for _ in range(20):
            action = act(*(WAIT if x else CALM for x in torch.randint(2, (5,), generator=rng).tolist()))
            row = pool.step(action)
            assert_same(row, Step.cat([env.step(action[i : i + 1]) for i, env in enumerate(alone)]))
    before = row.obs["image"].clone()
    pool.step(act(*[CALM] * 5))
    assert torch.equal(row.obs["image"], before)  # a row stays what it was when the next is written
    pool.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_raises_begins_a_new_episode(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    pool = EnvPool(Rogue, 3, workers)
    replay = ReplayBuffer(pool.spec, 3, 12)
    row, reset = pool.reset(7), None
    for what in (CALM, CALM, RAISE, CALM, CALM, CALM, CALM, CALM, CALM, CALM):
        action = act(CALM, what, CALM)
        replay.add(row, action)
        with caplog.at_level(logging.WARNING, "isochrone"):
            row = pool.step(action)
        if what == RAISE:
            reset = row
    assert reset is not None
    assert reset.first.tolist() == [False, True, False]
    assert not reset.last.any()
    assert reset.reward[1] == 0
    count = read(reset.obs["state"])
    assert count.time.tolist() == [3, 0, 3]
    assert int(count.env[1]) == (seed_of(7, 1, 1) or 0) % 4096 != 8
    assert [r.getMessage() for r in caplog.records] == [
        "environment 1 failed and begins a new episode: ValueError: boom"
    ]
    # Row 2 was recorded as an ordinary row; no transition leads to row 3, because row 3 is a first row.
    batch = windows_at(replay, [1], [0], 10)
    assert batch.first[0].nonzero().flatten().tolist()[:2] == [0, 3]
    assert not batch.last[0, :3].any()
    assert batch.connected(1)[0, :4].tolist() == [True, True, False, True]
    assert [len(e) for e in replay.episodes([1])] == [len(e) for e in replay.episodes([1]) if e.last[-1]]
    pool.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_three_failures_in_a_row_stop(workers: int) -> None:
    pool = EnvPool(Rogue, 2, workers)
    pool.reset(0)
    for what in (RAISE, CALM) * 3 + (RAISE, RAISE):
        assert pool.step(act(CALM, what)).first[1] == (what == RAISE)
    with pytest.raises(UserError, match=r"environment 1 failed 3 times .* the last time: ValueError: boom") as caught:
        pool.step(act(CALM, RAISE))
    assert "\n" not in str(caught.value)
    assert "raise ValueError" in caught.value.__notes__[0]  # the command line keeps it in a file
    with pytest.raises(UserError, match="closed"):
        pool.reset(0)


def test_an_environment_that_cannot_begin_stops() -> None:
    pool = EnvPool(Unstartable, 1)
    pool.reset(77)
    with pytest.raises(UserError, match=r"(?s)environment 0 failed 3 times.*cannot start with seed"):
        pool.reset(78)


def test_a_worker_that_dies_or_hangs_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    pool = EnvPool(Rogue, 3, 2)  # environments 0 and 1, environment 2
    pool.reset(0)
    with caplog.at_level(logging.WARNING, "isochrone"):
        row = pool.step(act(CALM, KILL, CALM))
        assert row.first.tolist() == [True, True, False]
        assert not row.last.any()
        assert (row.reward[:2] == 0).all()
        assert read(row.obs["state"]).time.tolist() == [0, 0, 1]
        pool.step(act(CALM, CALM, CALM))
        os.kill(pool._workers[1].process.pid or 0, signal.SIGKILL)  # while it is idle
        row = pool.step(act(CALM, CALM, CALM))
        assert row.first.tolist() == [False, False, True]
        assert read(row.obs["state"]).time.tolist() == [2, 2, 0]
        pool.timeout = 2.0
        row = pool.step(act(CALM, CALM, HANG))
        assert row.first.tolist() == [False, False, True]
        assert read(row.obs["state"]).time.tolist() == [3, 3, 0]
        assert_same(pool.step(act(CALM, CALM, CALM))[:2], pool._row()[:2])
    messages = [r.getMessage() for r in caplog.records]
    assert messages[0].startswith("the worker of environments 0, 1 was killed by signal 9")
    assert (
        messages[1] == "environment 1 failed and begins a new episode: its worker was killed by signal 9"
    )  # 0 had nothing to do
    assert any("environment 2 gave no answer within 2 s" in line for line in messages)
    pool.close()


def test_close_gives_everything_back() -> None:
    pool = EnvPool(Rogue, 2, 8)  # no more workers than environments
    processes, block = [worker.process for worker in pool._workers], SHARED / pool._memory[0].name
    assert len(processes) == 2
    assert block.exists() or not SHARED.exists()
    with pytest.raises(UserError, match="not been reset"):
        pool.step(act(CALM, CALM))
    pool.reset(0)
    with pytest.raises(UserError, match=r"must be"):
        pool.step(torch.zeros(2, 5))
    pool.close()
    pool.close()
    assert [p.exitcode for p in processes] == [0, 0]
    assert not block.exists()
    with pytest.raises(UserError, match="closed"):
        pool.step(act(CALM, CALM))


def test_an_interrupted_step_is_not_mistaken_for_the_next() -> None:
    times: list[float | type[BaseException]] = []

    def clock() -> float:
        now = times.pop() if times else 0.0
        if isinstance(now, float):
            return now
        raise now

    pool = EnvPool(Rogue, 1, 1, clock=clock)
    begin = pool.reset(0)
    times.append(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.step(act(CALM))
    with pytest.raises(UserError, match="interrupted"):
        pool.step(act(CALM))
    assert_same(pool.reset(0), begin)
    assert read(pool.step(act(CALM)).obs["state"]).time.tolist() == [1]
    pool.close()


@pytest.mark.parametrize(
    ("make", "num_envs", "message"),
    [
        (refused, 1, "^size = -0: must be at least 1$"),
        (broken, 1, "(?s)worker of environment 0 failed.*no such simulator"),
        (lambda number: Rogue(number), 1, "at the top of a module"),
        (uneven, 2, "environments of a pool differ"),
        (crowd, 1, "environment 0 of the pool has num_envs = 2"),
    ],
)
def test_bad_environments_are_refused_at_once(make, num_envs: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        EnvPool(make, num_envs, num_envs)


@pytest.mark.parametrize("numbers", [(0, 0, 1.0), (1, -1, 1.0), (1, 1, 0.0)])
def test_numbers_out_of_range(numbers: tuple[int, int, float]) -> None:
    with pytest.raises(UserError, match="at least 1 environment"):
        EnvPool(Rogue, *numbers)


SCRIPT = """
import signal, torch
from rogue import Rogue
from isochrone.envs.env_pool import EnvPool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and its children, ignore it
    pool = EnvPool(Rogue, 2, 2)
    pool.reset(0)
    print(pool._memory[0].name, *[worker.process.pid for worker in pool._workers], flush=True)
    while True:
        pool.step(torch.eye(5)[[4, 4]])
"""


@pytest.mark.slow
def test_ctrl_c_ends_all_without_close(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests" / "support")))
    child = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        name, *pids = child.stdout.readline().split()
        time.sleep(0.1)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()  # its workers end when their pipe does
    assert child.returncode in (-signal.SIGINT, 130), errors
    assert errors.count("Traceback") == 1, errors
    assert "resource_tracker" not in errors, errors
    assert not (SHARED / name).exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


KILLED = """
import ctypes, os, sys, threading, time
import torch
from rogue import Rogue
from isochrone.envs.env_pool import EnvPool

class Spins(Rogue):
    def step(self, action):
        if sys.argv[1] == "in Python":
            while True:
                pass
        ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock

if __name__ == "__main__":
    pool = EnvPool(Spins, 2, 2)
    pool.reset(0)
    print(*[worker.process.pid for worker in pool._workers], pool._memory[0].name, flush=True)
    pool.step(torch.eye(5)[[4, 4]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("spin", ["in Python", "in C"])
def test_workers_that_spin_end_with_a_parent_that_is_killed(spin: str, tmp_path: Path) -> None:
    if spin == "in C" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends a process whose interpreter is locked")
    (tmp_path / "script.py").write_text(KILLED)
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests" / "support")))
    words = [sys.executable, str(tmp_path / "script.py"), spin]
    child = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    *pids, name = child.stdout.readline().split()
    time.sleep(0.5)  # until they spin
    child.kill()
    child.wait()
    until = time.monotonic() + 20
    while (left := [pid for pid in pids if _runs(int(pid))] + [name] * (SHARED / name).exists()) and (
        time.monotonic() < until
    ):
        time.sleep(0.1)
    for pid in pids:
        if _runs(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
    assert not left, "a worker, or the memory that it shares, outlived the process that started it"


def _runs(pid: int) -> bool:
    """Is there such a process, and not only its exit status?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
