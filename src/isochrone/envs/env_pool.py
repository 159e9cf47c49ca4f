"""A pool of single environments in worker processes, for simulators that are slow or that crash.

Frames, actions and flags lie in shared memory; the pipes carry only commands and tracebacks. A command is sent to all
workers before the first answer is read, so they work at the same time.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec, Step
from isochrone.envs._worker_process import GRACE, WorkerHandle
from isochrone.envs.local_envs import LIMIT, Crash, LocalEnvs, MakeEnv, arrays, bytes_of

START = 120.0  # seconds a worker may take to import its simulator and make its environments, or to reset them all
_LOG = logging.getLogger("isochrone")


def _release(
    workers: list[WorkerHandle], local: list[LocalEnvs], rows: dict[str, np.ndarray], memory: list[SharedMemory]
) -> None:
    """End all processes and free the shared memory; also runs at the interpreter's exit, without `close`."""
    for worker in workers:
        worker.send(("close", 0, None))
    running = {worker.process.sentinel for worker in workers}
    while running and (ended := wait(list(running), GRACE)):
        running.difference_update(ended)
    while workers:
        workers.pop().end()
    while local:
        local.pop().close()
    rows.clear()  # shared memory cannot be closed while arrays refer to it
    while memory:
        block = memory.pop()
        block.close()
        block.unlink()


class EnvPool:
    """`num_envs` environments distributed over `workers` processes (0: all in this process), as one `VecEnv`.

    `make(i)` returns environment i, with num_envs = 1; with workers it must be importable by name. `reset(seed)` seeds
    environment i with seed + i. The rows do not depend on `workers`.

    An environment that raises is created again; a worker that dies or does not answer within `timeout` seconds is
    replaced. The row of that step is then the `first` row of a new episode, and the row before it stays without `last`:
    no transition leads from one to the other, and `Batch.connected` is False there. Each failure is logged as a warning
    of the logger 'isochrone'.
    """

    def __init__(
        self,
        make: MakeEnv,
        num_envs: int,
        workers: int = 0,
        timeout: float = 60.0,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Raises:
            UserError: num_envs, workers or timeout out of range; the environment cannot be made.
        """
        if num_envs < 1 or workers < 0 or not timeout > 0:
            raise UserError(
                f"pool of num_envs = {num_envs}, workers = {workers}, timeout = {timeout}: "
                "needs at least 1 environment, at least 0 workers and a timeout above 0"
            )
        self.num_envs, self.device, self.timeout, self._clock = num_envs, torch.device(device), timeout, clock
        self._workers: list[WorkerHandle] = []
        self._rows: dict[str, np.ndarray] = {}
        self._memory: list[SharedMemory] = []
        self._local: list[LocalEnvs] = []  # without workers: one entry, with all environments
        self._failures = [0] * num_envs  # of each environment, since its last successful step
        self._seed: int | None = None
        self._number, self._usable = 0, False
        self._finalizer = weakref.finalize(self, _release, self._workers, self._local, self._rows, self._memory)
        try:
            self.spec = self._start_workers(make, workers) if workers else self._start_local(make)
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode in every environment.

        Raises:
            UserError: an environment failed three times in a row.
        """
        self._check_open()
        self._seed = seed
        self._run("reset")
        return self._row()

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """Step every environment; one whose last row was `last` begins a new episode and ignores its action.

        Raises:
            UserError: the action is not legal; `reset` is due; an environment failed three times in a row.
        """
        self._check_open()
        if not self._usable:
            raise UserError("step: this pool has not been reset, or was interrupted in the middle of a step: reset it")
        self.spec.action.check(action, self.num_envs)
        self._rows["action"][:] = action.float().cpu().numpy()
        failed = self._run("step")
        self._failures = [count if env in failed else 0 for env, count in enumerate(self._failures)]
        return self._row()

    def close(self) -> None:
        """End the workers and free the shared memory. A second call does nothing."""
        self._usable = False
        self._finalizer()

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start_local(self, make: MakeEnv) -> Spec:
        local = LocalEnvs(make, range(self.num_envs))
        self._local.append(local)
        self._rows.update(arrays(local.spec, self.num_envs, bytearray(bytes_of(local.spec, self.num_envs))))
        local.rows = self._rows
        return local.spec

    def _start_workers(self, make: MakeEnv, workers: int) -> Spec:
        for indices in np.array_split(range(self.num_envs), min(workers, self.num_envs)):
            self._workers.append(WorkerHandle(make, indices.tolist()))
        specs, notes = [], dict[str, None]()
        for worker, answer in self._answers(self._workers, START):
            specs.append(self._spec_of(worker, answer))
            notes |= dict.fromkeys(answer[2])
        for text in notes:
            _LOG.info("%s", text)
        for spec in specs:
            if spec != specs[0]:
                raise UserError(f"the environments of a pool differ: {spec} and {specs[0]}; give all the same options")
        block = SharedMemory(create=True, size=bytes_of(specs[0], self.num_envs))
        self._memory.append(block)
        self._rows.update(arrays(specs[0], self.num_envs, block.buf))
        for worker in self._workers:
            self._share_rows(worker)
        return specs[0]

    def _spec_of(self, worker: WorkerHandle, answer: tuple) -> Spec:
        """The spec in a worker's first answer."""
        if answer[0] == "ready":
            obs, action = answer[1]
            return Spec(dict(obs), ActionSpec(*action))
        self._check_refusal(answer)
        hint = "; a script that starts workers must begin under `if __name__ == '__main__':`"
        raise _failure(f"the worker of {_names(worker)}", answer[1], hint * ("exit code" in answer[1]))

    def _share_rows(self, worker: WorkerHandle) -> None:
        worker.send(("rows", self._memory[0].name, self.num_envs))

    # --- commands ---------------------------------------------------------------------------------------------------

    def _run(self, command: str) -> set[int]:
        """Run 'reset' or 'step' in every environment; returns those that began a new episode because of a failure."""
        self._usable = False  # until all have answered: an interruption in between must not go unnoticed
        self._number += 1
        crashes: list[Crash] = []
        lost: list[tuple[WorkerHandle, str]] = []
        for local in self._local:
            crashes += local.reset(self._seed) if command == "reset" else local.step()
        for worker in self._workers:
            worker.send((command, self._number, self._seed))
        for worker, answer in self._answers(self._workers, self.timeout if command == "step" else START):
            crashes += self._crashes(answer)
            lost += [] if answer[0] == "done" else [(worker, answer[1])]
        self._count_failures(crashes)
        for worker, why in lost:
            self._replace(worker, why)
        self._usable = True
        return {crash.env for crash in crashes} | {env for worker, _ in lost for env in worker.indices}

    def _answers(self, workers: Sequence[WorkerHandle], seconds: float) -> Iterator[tuple[WorkerHandle, tuple]]:
        """Each worker's answer as it arrives; ('lost', why) for a worker that died or did not answer in time."""
        waiting = {worker.pipe: worker for worker in workers}
        until = self._clock() + seconds
        while waiting:
            ready: list[Any] = wait(list(waiting), max(0.0, until - self._clock()))
            if not ready:
                yield from [(worker, ("lost", f"gave no answer within {seconds:g} s")) for worker in waiting.values()]
                return
            for pipe in ready:
                answer = waiting[pipe].receive()
                if answer[0] == "done" and answer[1] != self._number:
                    continue  # to a command that was interrupted; the answer to this one follows
                yield waiting.pop(pipe), answer

    def _crashes(self, answer: tuple) -> list[Crash]:
        self._check_refusal(answer)
        return [Crash(*crash) for crash in answer[2]] if answer[0] == "done" else []

    def _check_refusal(self, answer: tuple) -> None:
        if answer[0] == "refused":
            self.close()
            raise UserError(answer[1])

    # --- failures ---------------------------------------------------------------------------------------------------

    def _replace(self, worker: WorkerHandle, why: str) -> None:
        """Start another process for a worker that is lost. Its busy environments (if none: all) count as failed."""
        while True:
            indices = list(worker.indices)
            failed = [env for env in indices if self._rows["busy"][env]] or indices
            worker.end()
            self._rows["busy"][indices] = False
            self._rows["restarts"][indices] += 1
            _LOG.warning("the worker of %s %s; a new worker begins new episodes there", _names(worker), _short(why))
            self._count_failures([Crash(env, f"its worker {why}") for env in failed])
            worker.start()
            answer = self._first(worker, START)
            if answer[0] == "ready":
                self._share_rows(worker)
                worker.send(("restart", self._number, self._seed))
                answer = self._first(worker, START)
            self._count_failures(self._crashes(answer))
            if answer[0] == "done":
                return
            why = answer[1]

    def _first(self, worker: WorkerHandle, seconds: float) -> tuple:
        return next(answer for _, answer in self._answers([worker], seconds))

    def _count_failures(self, crashes: Sequence[Crash]) -> None:
        for env, traceback in crashes:
            self._failures[env] += 1
            _LOG.warning("environment %d failed and begins a new episode: %s", env, _short(traceback))
            if self._failures[env] >= LIMIT:
                self.close()
                raise _failure(
                    f"environment {env} failed {LIMIT} times without a step between; the last time:", traceback
                )

    def _check_open(self) -> None:
        if not self._rows:
            raise UserError("this pool is closed: make another")

    def _row(self) -> Step:
        """The newest row, copied: the next step overwrites the arrays."""
        row = {name: torch.from_numpy(array.copy()).to(self.device) for name, array in self._rows.items()}
        obs = {name: row[f"obs/{name}"] for name in self.spec.obs}
        return Step(obs, row["reward"], row["first"], row["last"], row["terminal"])


def _short(why: str) -> str:
    """The first line of a text that may hold a traceback, and the line of the error itself."""
    lines = why.strip().splitlines()
    if len(lines) < 2:
        return why.strip()
    ends = [line for before, line in pairwise(lines) if before.startswith(" ") and not line.startswith(" ")]
    error = ends[-1] if ends else lines[-1]  # its text may have more lines
    return error if lines[0].startswith("Traceback") else f"{lines[0]} {error}"


def _failure(what: str, why: str, hint: str = "") -> UserError:
    """One sentence; the whole traceback is a note of the error."""
    error = UserError(f"{what} {_short(why)}{hint}")
    if len(why.strip().splitlines()) > 1:
        error.add_note(why)
    return error


def _names(worker: WorkerHandle) -> str:
    return f"environment{'s' * (len(worker.indices) > 1)} " + ", ".join(map(str, worker.indices))
