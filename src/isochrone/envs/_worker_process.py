"""One worker process: what runs in it, and the parent's end of it.

Workers come from a *fork server*: a bare process that imported torch and nothing else. `fork` would copy threads and
graphics contexts of the parent that do not survive it, `spawn` would import torch anew (seconds, 150 MB) for every
worker and every restart. Where there is no fork server (Windows), workers are spawned.

What arrives through the pipe was sent by our own process: `make` once, then plain tuples.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from queue import SimpleQueue
from typing import Any

import torch

from isochrone.core.errors import UserError
from isochrone.envs.local_envs import LocalEnvs, MakeEnv, arrays

GRACE = 5.0  # seconds for a worker to end


def serve(pipe: Connection) -> None:
    """The main loop of a worker: make the environments, then run commands until 'close' or until the pipe breaks."""
    with suppress(OSError):  # no standard error
        os.dup2(2, 1)  # standard output is for the results of a command, not for what a simulator prints
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides when workers end
    end_with_parent()
    envs, shared = None, None
    try:
        make, indices, environ = pipe.recv()
        os.environ.clear()
        os.environ.update({"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", **environ})
        torch.set_num_threads(1)
        envs, notes = _make_envs(make, indices)
        pipe.send(("ready", (tuple(envs.spec.obs.items()), dataclasses.astuple(envs.spec.action)), notes))
        command, name, num_envs = pipe.recv()
        if command == "rows":
            shared = SharedMemory(name)
            envs.rows = arrays(envs.spec, num_envs, shared.buf)
            _run_commands(pipe, envs)
    except UserError as error:
        _send(pipe, ("refused", str(error)))
    except Exception:  # includes a broken pipe: the parent is gone, and this message is lost too
        _send(pipe, ("lost", f"failed:\n{traceback.format_exc()}"))
    if envs is not None:
        envs.close()
        envs.rows.clear()
    if shared is not None:
        shared.close()


def _make_envs(make: MakeEnv, indices: Sequence[int]) -> tuple[LocalEnvs, list[str]]:
    """The environments, and what the library logged while they were made: the parent logs it."""
    log, notes = logging.getLogger("isochrone"), SimpleQueue[logging.LogRecord]()
    handler = QueueHandler(notes)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    envs = LocalEnvs(make, indices)
    log.removeHandler(handler)
    return envs, [notes.get().getMessage() for _ in range(notes.qsize())]


def end_with_parent() -> None:
    """End this process when the one that started the pool ends, however it ends and whatever runs here.

    The parent holds the other end of a pipe that carries nothing, its *sentinel*: when the parent is gone it closes.
    A thread waits for that. On Linux the kernel also sends SIGKILL then, because a simulator may hold the interpreter's
    lock for ever. (PR_SET_PDEATHSIG would wait for the fork server, which lives as long as its workers do.)
    """
    parent = mp.parent_process()
    assert parent is not None  # this is a worker

    def wait_for_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
    if sys.platform == "linux":
        import fcntl

        sentinel = parent.sentinel  # type: ignore[attr-defined]
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)


def _run_commands(pipe: Connection, envs: LocalEnvs) -> None:
    while True:
        command, number, seed = pipe.recv()
        if command == "close":
            return
        crashes = envs.step() if command == "step" else envs.reset(seed) if command == "reset" else envs.restart(seed)
        pipe.send(("done", number, [tuple(crash) for crash in crashes]))


def _send(pipe: Connection, message: tuple) -> None:
    try:
        pipe.send(message)
    except OSError:
        return  # the other end is closed


class WorkerHandle:
    """The parent's end of one worker: the numbers of its environments, and the process that runs them at present."""

    def __init__(self, make: MakeEnv, indices: Sequence[int]) -> None:
        self.make, self.indices = make, tuple(indices)
        self.start()

    def start(self) -> None:
        """Start a process; its first answer is ('ready', its spec), ('refused', why) or ('lost', why)."""
        context: Any = mp.get_context("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
        context.set_forkserver_preload(["torch"])
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=serve, args=(child_pipe,), daemon=True)
        self.process.start()
        child_pipe.close()  # otherwise the pipe would stay open when the worker dies
        try:
            self.pipe.send((self.make, self.indices, dict(os.environ)))
        except OSError:
            return  # it died at once: `receive` reports that
        except Exception as error:
            self.end()
            raise UserError(
                f"{self.make!r} cannot be sent to a worker process ({error}): "
                "use a function or class at the top of a module"
            ) from error

    def send(self, message: tuple) -> None:
        """Send a command. Never fails: `receive` reports a dead worker."""
        _send(self.pipe, message)

    def receive(self) -> tuple:
        """The next answer, or ('lost', why)."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(GRACE)
            code = self.process.exitcode
            return "lost", f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"

    def end(self) -> None:
        """Kill the process if it still runs, and close the pipe."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
