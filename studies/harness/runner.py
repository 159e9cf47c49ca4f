"""Run the missing cells of a study, a few at a time, each in a process of one thread; then write its pages.

A cell without a result is missing and is run. A cell whose result was measured with another config is *stale*: it is
reported and marked in the evidence, and run again only with `fresh=True`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isochrone.core.errors import UserError
from isochrone.training.console import clock
from isochrone.training.signals import stop_on_signal
from studies.harness import page, result, study
from studies.harness.aggregate import ALL_SECONDS, value
from studies.harness.cell import run_folder

log = logging.getLogger(__name__)
GRACE = 60.0
"""Seconds that a stopped cell has to write its checkpoint."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cells(name: str, root: Path) -> list[dict[str, str]]:
    """[{'cell', 'state'}] in running order; state is 'done', 'missing' or 'stale'."""
    this = study.load(name, root)
    stored = {cell.name: result.read(result.path_of(root, name, cell.name)) for cell in this.cells}
    return [{"cell": cell.name, "state": result.state(root, this, cell, stored[cell.name])} for cell in this.cells]


def table(name: str, root: Path) -> str:
    """The study's table for a terminal; also writes its pages under docs/. Trains nothing."""
    page.update(name, root)
    return page.terminal(name, root)


def run(name: str, root: Path, jobs: int = 2, fresh: bool = False) -> str:
    """Run the missing cells (with `fresh` also the stale ones), `jobs` at a time; the table, as `table` returns it.

    A cell that fails is reported with the end of its log and does not stop the others. Ctrl-C or SIGTERM stops the
    running cells with a checkpoint each and raises KeyboardInterrupt; the next run resumes them.
    """
    if jobs < 1:
        raise UserError(f"jobs = {jobs}: must be at least 1")
    states = cells(name, root)
    queue = [c["cell"] for c in states if c["state"] == "missing" or (fresh and c["state"] == "stale")]
    stale = sum(c["state"] == "stale" for c in states)
    log.info("study %s: %d cells, %d to run, %d at a time", name, len(states), len(queue), jobs)
    if stale and not fresh:
        log.info("%d of them are stale (measured with another config): they are kept and marked in the table", stale)
    failed = Jobs(name, root).run(queue, jobs) if queue else []
    text = table(name, root)
    if failed:
        text += f"\n\nfailed: {', '.join(failed)}; run the study again to resume {'it' if len(failed) == 1 else 'them'}"
    return text


@dataclass
class Child:
    """A running cell."""

    cell: str
    process: subprocess.Popen[bytes]
    log: Path
    start: float


class Jobs:
    """Cells as processes, `jobs` at a time."""

    def __init__(self, name: str, root: Path, every: float = 60.0) -> None:
        self.name, self.root, self.every = name, root, every
        self.running: list[Child] = []
        self.seconds: list[float] = []  # of the cells that finished in this call
        stored = result.read_all(root, name, study.load(name, root)).values()
        self.earlier = [value(r, ALL_SECONDS) or 0.0 for r in stored]

    def run(self, cells: Sequence[str], jobs: int) -> list[str]:
        """Run all of them; returns those that failed."""
        queue, failed, last, done = list(cells), [], time.monotonic(), 0
        with stop_on_signal() as stop:
            try:
                while (queue or self.running) and not stop:
                    while queue and len(self.running) < jobs:
                        self.running.append(self.start(queue.pop(0)))
                    time.sleep(0.1)
                    for child in [c for c in self.running if c.process.poll() is not None]:
                        done += 1
                        self.running.remove(child)
                        if not self.report_end(child, f"[{done}/{len(cells)}]", len(queue), jobs):
                            failed.append(child.cell)
                    if time.monotonic() - last > self.every:
                        last = time.monotonic()
                        self.report_progress(len(queue), jobs)
                if stop:
                    self.stop()
                    raise KeyboardInterrupt
            finally:
                for child in self.running:  # a second Ctrl-C, or an error of the runner itself
                    child.process.kill()
                    child.process.wait()
        return failed

    def start(self, cell: str) -> Child:
        """One thread, in its own session, so that Ctrl-C reaches it through `stop` alone."""
        path = run_folder(self.root, self.name, "logs") / f"{cell}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        clone = Path(__file__).resolve().parents[2]
        places = os.pathsep.join([str(clone), str(clone / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        env = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": places}
        command = [sys.executable, "-m", "studies.harness.cell", self.name, cell]
        with path.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return Child(cell, process, path, time.monotonic())

    def report_end(self, child: Child, count: str, waiting: int, jobs: int) -> bool:
        """Log how a cell ended; True if it stored a result."""
        seconds, code = time.monotonic() - child.start, child.process.returncode
        if code == 0:
            self.seconds.append(seconds)
            log.info("%s %s: done in %s%s", count, child.cell, clock(seconds), self.remaining(waiting, jobs))
            return True
        log.info("%s %s: failed after %s (exit code %d); end of its log:", count, child.cell, clock(seconds), code)
        for line in last_lines(child.log, 12):
            log.info("  | %s", line)
        return False

    def report_progress(self, waiting: int, jobs: int) -> None:
        """One line per running cell, then the time left for all."""
        for child in self.running:
            newest = last_lines(child.log, 1)
            log.info("%s: %s", child.cell, newest[0][:90] if newest else "starting")
        log.info("%d running, %d waiting%s", len(self.running), waiting, self.remaining(waiting, jobs))

    def remaining(self, waiting: int, jobs: int) -> str:
        """', about 1:20:00 left', estimated from the cells that finished in this call or an earlier one."""
        samples = self.seconds or self.earlier
        if not samples or not waiting + len(self.running):
            return ""
        mean, now = sum(samples) / len(samples), time.monotonic()
        work = waiting * mean + sum(max(0.0, mean - (now - child.start)) for child in self.running)
        return f", about {clock(work / jobs)} left"

    def stop(self) -> None:
        """Ask every running cell to stop with a checkpoint, and wait for it."""
        names = ", ".join(child.cell for child in self.running)
        log.info("stopping %s: each keeps a checkpoint; `python -m studies %s` resumes them", names, self.name)
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
    """The last `count` lines of a log that are not blank."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [line.rstrip() for line in lines if line.strip()][-count:]
