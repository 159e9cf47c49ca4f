"""One worker process: what runs in it, and the parent's end of it.

Workers come from a *fork server*: a bare process that imported torch and nothing else. `fork` would copy threads and
graphics contexts of the parent that do not survive it, `spawn` would import torch anew (seconds, 150 MB) for every
worker and every restart. Where there is no fork server (Windows), workers are spawned.

What arrives through the pipe was sent by our own process: `make` once, then plain tuples.
"""

from __future__ import annotations

import dataclasses
import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import torch

from isochrone.core.errors import UserError
from isochrone.envs.local_envs import Make, Worlds, arrays

GRACE = 5.0  # seconds for a worker to end


def serve(pipe: Connection) -> None:
    """The life of a worker: make worlds, then obey until told to close or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; ending is the parent's to decide
    worlds, shared = None, None
    try:
        make, mine, environ = pipe.recv()
        os.environ.clear()
        os.environ.update({"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", **environ})
        torch.set_num_threads(1)
        worlds = Worlds(make, mine)
        pipe.send(("ready", (tuple(worlds.spec.obs.items()), dataclasses.astuple(worlds.spec.action))))
        word, name, count = pipe.recv()
        if word == "rows":
            shared = SharedMemory(name)
            worlds.rows = arrays(worlds.spec, count, shared.buf)
            _obey(pipe, worlds)
    except UserError as error:
        _tell(pipe, ("refused", str(error)))
    except Exception:  # also when the parent is gone: then nobody hears this either
        _tell(pipe, ("lost", f"failed:\n{traceback.format_exc()}"))
    if worlds is not None:
        worlds.close()
        worlds.rows.clear()
    if shared is not None:
        shared.close()


def _obey(pipe: Connection, worlds: Worlds) -> None:
    while True:
        name, number, seed = pipe.recv()
        if name == "close":
            return
        crashes = worlds.step() if name == "step" else worlds.reset(seed) if name == "reset" else worlds.revive(seed)
        pipe.send(("done", number, [tuple(crash) for crash in crashes]))


def _tell(pipe: Connection, message: tuple) -> None:
    try:
        pipe.send(message)
    except OSError:
        return  # nobody listens any more


class Seat:
    """The place of one worker: the worlds it holds, and the process that holds them now."""

    def __init__(self, make: Make, mine: Sequence[int]) -> None:
        self.make, self.mine = make, tuple(mine)
        self.start()

    def start(self) -> None:
        """Begin a process; it answers ('ready', its spec), ('refused', why) or ('lost', why)."""
        context: Any = mp.get_context("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
        context.set_forkserver_preload(["torch"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # or the death of the worker would not close the pipe
        try:
            self.pipe.send((self.make, self.mine, dict(os.environ)))
        except OSError:
            return  # it died at once; whoever waits for its answer will see that
        except Exception as error:
            self.end()
            raise UserError(
                f"{self.make!r} cannot be sent to a worker process ({error}): "
                "use a function or class at the top of a module"
            ) from error

    def send(self, message: tuple) -> None:
        """Never fails: a dead worker is noticed where its answer is read."""
        _tell(self.pipe, message)

    def receive(self) -> tuple:
        """The next answer, or ('lost', why)."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(GRACE)
            code = self.process.exitcode
            return "lost", f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"

    def end(self) -> None:
        """Kill what still runs."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
