"""Run what a study lacks, some cells at a time, each in a process of one thread; then its table and its evidence.

A cell without a result is missing and is run. A cell whose result was measured with another config is *stale*: it is
reported and marked in the evidence, and run again only with `fresh=True`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.harness import evidence, result
from studies.harness import study as plan
from studies.harness.aggregate import WHOLE, value
from studies.harness.cell import run_folder

from isochrone.core.errors import UserError
from isochrone.train.console import clock
from isochrone.train.signals import stop_on_signal
from isochrone.workflows import build

Say = Callable[[str], None]
GRACE = 60.0
"""Seconds that a stopped cell is given to write its checkpoint."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def names(root: Path | None = None) -> list[str]:
    """Every study, sorted."""
    return plan.names(root)


def cells(name: str, root: Path | None = None) -> list[dict[str, str]]:
    """[{'cell', 'state'}] in running order; state is 'done', 'missing' or 'stale'."""
    root = root or plan.root()
    study = plan.load(name, root)
    found = {cell.name: result.read(result.path_of(root, name, cell.name)) for cell in study.cells}
    return [{"cell": cell.name, "state": result.state(root, study, cell, found[cell.name])} for cell in study.cells]


def table(name: str, root: Path | None = None) -> str:
    """The table of what is measured, which is also written into docs/evidence.md. Runs nothing."""
    root = root or plan.root()
    evidence.update(name, root)
    return evidence.terminal(name, root)


def run(name: str, jobs: int = 2, say: Say = build.silent, fresh: bool = False, root: Path | None = None) -> str:
    """Run the missing cells (with `fresh` also the stale ones), `jobs` at a time; the table, as `table` gives it.

    A cell that fails is told with its last lines and does not stop the others. Ctrl-C or SIGTERM stops the running
    cells with a checkpoint each and raises KeyboardInterrupt; the next run goes on from there.
    """
    if jobs < 1:
        raise UserError(f"jobs = {jobs}: at least 1 cell runs at a time")
    root = root or plan.root()
    listed = cells(name, root)
    wanted = [c["cell"] for c in listed if c["state"] == "missing" or (fresh and c["state"] == "stale")]
    stale = sum(c["state"] == "stale" for c in listed)
    say(f"study {name}: {len(listed)} cells, {len(wanted)} to run, {jobs} at a time")
    if stale and not fresh:
        say(f"{stale} of them stale (measured with another config): kept, and marked in the table")
    failed = Pool(name, root, say).run(wanted, jobs) if wanted else []
    told = table(name, root)
    if failed:
        told += (
            f"\n\nfailed: {', '.join(failed)}; run the study again to go on with {'it' if len(failed) == 1 else 'them'}"
        )
    return told


@dataclass
class Child:
    """A running cell."""

    cell: str
    process: subprocess.Popen[bytes]
    log: Path
    began: float


class Pool:
    """Cells as processes, `jobs` at a time."""

    def __init__(self, name: str, root: Path, say: Say, every: float = 60.0) -> None:
        self.name, self.root, self.say, self.every = name, root, say, every
        self.running: list[Child] = []
        self.spent: list[float] = []
        self.before = [value(r, WHOLE) or 0.0 for r in result.read_all(root, name, plan.load(name, root)).values()]

    def run(self, wanted: Sequence[str], jobs: int) -> list[str]:
        """The cells that failed."""
        rest, failed, told, done = list(wanted), [], time.monotonic(), 0
        with stop_on_signal() as wish:
            try:
                while (rest or self.running) and not wish:
                    while rest and len(self.running) < jobs:
                        self.running.append(self.start(rest.pop(0)))
                    time.sleep(0.1)
                    for child in [c for c in self.running if c.process.poll() is not None]:
                        done += 1
                        self.running.remove(child)
                        if not self.ended(child, f"[{done}/{len(wanted)}]", len(rest), jobs):
                            failed.append(child.cell)
                    if time.monotonic() - told > self.every:
                        told = time.monotonic()
                        self.progress(len(rest), jobs)
                if wish:
                    self.stop()
                    raise KeyboardInterrupt
            finally:
                for child in self.running:  # a second Ctrl-C, or a fault of our own
                    child.process.kill()
                    child.process.wait()
        return failed

    def start(self, cell: str) -> Child:
        """One thread each, in a session of its own so that Ctrl-C reaches it through `stop` alone."""
        log = run_folder(self.root, self.name, "logs") / f"{cell}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
        env = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": path}
        words = [sys.executable, "-m", "studies.harness.cell", self.name, cell]
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        return Child(cell, process, log, time.monotonic())

    def ended(self, child: Child, count: str, rest: int, jobs: int) -> bool:
        """Say how a cell ended; did it store a result?"""
        took, code = time.monotonic() - child.began, child.process.returncode
        if code == 0:
            self.spent.append(took)
            self.say(f"{count} {child.cell}: done in {clock(took)}{self.left(rest, jobs)}")
            return True
        self.say(f"{count} {child.cell}: failed after {clock(took)} (exit code {code}); its last lines:")
        for line in last_lines(child.log, 12):
            self.say(f"  | {line}")
        return False

    def progress(self, rest: int, jobs: int) -> None:
        """One line per running cell, then the time left for all."""
        for child in self.running:
            newest = last_lines(child.log, 1)
            self.say(f"{child.cell}: {newest[0][:90] if newest else 'starting'}")
        self.say(f"{len(self.running)} running, {rest} waiting{self.left(rest, jobs)}")

    def left(self, rest: int, jobs: int) -> str:
        """', about 1:20:00 left', by the cells that this call or an earlier one has finished."""
        known = self.spent or self.before
        if not known or not rest + len(self.running):
            return ""
        mean, now = sum(known) / len(known), time.monotonic()
        work = rest * mean + sum(max(0.0, mean - (now - child.began)) for child in self.running)
        return f", about {clock(work / jobs)} left"

    def stop_gradient(self) -> None:
        """Ask every running cell to end with a checkpoint, and wait for it."""
        names = ", ".join(child.cell for child in self.running)
        self.say(f"stopping {names}: each keeps a checkpoint; `isochrone study {self.name}` goes on from it")
        # not SIGINT: a shell's background job ignores it, and so would its children outside of training
        for child in self.running:
            child.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        for child in self.running:
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.running = []


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a log that say something."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [line.rstrip() for line in lines if line.strip()][-count:]
