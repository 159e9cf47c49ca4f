"""A pool of one-world environments in worker processes, for simulators that are slow or that crash.

Frames, actions and flags lie in shared memory; the pipes carry only commands and the stories of crashes. A command goes
to all workers before the first answer is read, so they work at the same time.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec, Step
from isochrone.envs._worker_process import GRACE, Seat
from isochrone.envs.local_envs import LIMIT, Crash, Make, Worlds, arrays, room

START = 120.0  # seconds a worker may take to import its simulator and make its worlds, or to reset them all
_LOG = logging.getLogger("isochrone")


def _shut(seats: list[Seat], homes: list[Worlds], rows: dict[str, np.ndarray], memory: list[SharedMemory]) -> None:
    """All that a pool owns is given back; also runs at the interpreter's exit, when nobody called `close`."""
    for seat in seats:
        seat.send(("close", 0, None))
    ending = {seat.process.sentinel for seat in seats}
    while ending and (ended := wait(list(ending), GRACE)):
        ending.difference_update(ended)
    while seats:
        seats.pop().end()
    while homes:
        homes.pop().close()
    rows.clear()  # shared memory cannot be closed while arrays look into it
    while memory:
        block = memory.pop()
        block.close()
        block.unlink()


class Pool:
    """`num_envs` worlds dealt to `workers` processes (0: all in this process), as one `VecEnv`.

    `make(i)` gives world i as an environment with num_envs = 1; with workers it must be importable by name. World i of
    `reset(seed)` is seeded with seed + i. The rows do not depend on `workers`.

    A world that raises is made anew, a worker that dies or gives no answer within `timeout` seconds is replaced. The
    row of that step is then the `first` row of a new episode and the row before it stays without `last`: the transition
    between them never happened, and `Batch.connected` says so. Each such event is a warning of the logger 'isochrone'.
    """

    def __init__(
        self,
        make: Make,
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
                "needs at least 1 world, at least 0 workers and a timeout above 0"
            )
        self.num_envs, self.device, self.timeout, self._clock = num_envs, torch.device(device), timeout, clock
        self._seats: list[Seat] = []
        self._rows: dict[str, np.ndarray] = {}
        self._memory: list[SharedMemory] = []
        self._homes: list[Worlds] = []  # the worlds of this process, all in one
        self._strikes = [0] * num_envs
        self._seed: int | None = None
        self._number, self._usable = 0, False
        self._finalizer = weakref.finalize(self, _shut, self._seats, self._homes, self._rows, self._memory)
        try:
            self.spec = self._started(make, workers) if workers else self._at_home(make)
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int | None = None) -> Step:
        """Begin anew everywhere.

        Raises:
            UserError: a world failed three times in a row.
        """
        self._check_open()
        self._seed = seed
        self._ask("reset")
        return self._row()

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """Act everywhere; a world whose last row was `last` begins anew and ignores its action.

        Raises:
            UserError: the action is not legal; `reset` is due; a world failed three times in a row.
        """
        self._check_open()
        if not self._usable:
            raise UserError("step: this pool has not been reset, or was interrupted in the middle of a step: reset it")
        self.spec.action.check(action, self.num_envs)
        self._rows["action"][:] = action.float().cpu().numpy()
        stumbled = self._ask("step")
        self._strikes = [n if world in stumbled else 0 for world, n in enumerate(self._strikes)]
        return self._row()

    def close(self) -> None:
        """End the workers and give the shared memory back. A second call does nothing."""
        self._usable = False
        self._finalizer()

    # --- starting ---------------------------------------------------------------------------------------------------

    def _at_home(self, make: Make) -> Spec:
        home = Worlds(make, range(self.num_envs))
        self._homes.append(home)
        self._rows.update(arrays(home.spec, self.num_envs, bytearray(room(home.spec, self.num_envs))))
        home.rows = self._rows
        return home.spec

    def _started(self, make: Make, workers: int) -> Spec:
        for mine in np.array_split(range(self.num_envs), min(workers, self.num_envs)):
            self._seats.append(Seat(make, mine.tolist()))
        specs = [self._ready(seat, answer) for seat, answer in self._answers(self._seats, START)]
        for spec in specs:
            if spec != specs[0]:
                raise UserError(f"the worlds of a pool differ: {spec} and {specs[0]}; give all the same options")
        block = SharedMemory(create=True, size=room(specs[0], self.num_envs))
        self._memory.append(block)
        self._rows.update(arrays(specs[0], self.num_envs, block.buf))
        for seat in self._seats:
            self._enter(seat)
        return specs[0]

    def _ready(self, seat: Seat, answer: tuple) -> Spec:
        """What a worker's first answer says about its worlds."""
        if answer[0] == "ready":
            obs, action = answer[1]
            return Spec(dict(obs), ActionSpec(*action))
        self._refused(answer)
        mend = "; a script that starts workers must begin under `if __name__ == '__main__':`"
        raise UserError(f"the worker of {_worlds(seat)} {answer[1]}{mend * ('exit code' in answer[1])}")

    def _enter(self, seat: Seat) -> None:
        seat.send(("rows", self._memory[0].name, self.num_envs))

    # --- asking -----------------------------------------------------------------------------------------------------

    def _ask(self, command: str) -> set[int]:
        """Have every worker do it; the worlds that began a new episode because something failed."""
        self._usable = False  # until all have answered: an interruption in between must not go unnoticed
        self._number += 1
        crashes: list[Crash] = []
        lost: list[tuple[Seat, str]] = []
        for home in self._homes:
            crashes += home.reset(self._seed) if command == "reset" else home.step()
        for seat in self._seats:
            seat.send((command, self._number, self._seed))
        for seat, answer in self._answers(self._seats, self.timeout if command == "step" else START):
            crashes += self._crashes(answer)
            lost += [] if answer[0] == "done" else [(seat, answer[1])]
        self._strike(crashes)
        for seat, why in lost:
            self._replace(seat, why)
        self._usable = True
        return {crash.world for crash in crashes} | {world for seat, _ in lost for world in seat.mine}

    def _answers(self, seats: Sequence[Seat], seconds: float) -> Iterator[tuple[Seat, tuple]]:
        """Each worker's answer as it comes; ('lost', why) for one that died or said nothing for too long."""
        waiting = {seat.pipe: seat for seat in seats}
        until = self._clock() + seconds
        while waiting:
            heard: list[Any] = wait(list(waiting), max(0.0, until - self._clock()))
            if not heard:
                yield from [(seat, ("lost", f"gave no answer within {seconds:g} s")) for seat in waiting.values()]
                return
            for pipe in heard:
                answer = waiting[pipe].receive()
                if answer[0] == "done" and answer[1] != self._number:
                    continue  # to a command that was interrupted; the answer to this one follows
                yield waiting.pop(pipe), answer

    def _crashes(self, answer: tuple) -> list[Crash]:
        self._refused(answer)
        return [Crash(*crash) for crash in answer[2]] if answer[0] == "done" else []

    def _refused(self, answer: tuple) -> None:
        if answer[0] == "refused":
            self.close()
            raise UserError(answer[1])

    # --- mending ----------------------------------------------------------------------------------------------------

    def _replace(self, seat: Seat, why: str) -> None:
        """Another process for the worlds of a worker that is gone. The worlds it was busy with are to blame."""
        while True:
            mine = list(seat.mine)
            blamed = [world for world in mine if self._rows["busy"][world]] or mine
            seat.end()
            self._rows["busy"][mine] = False
            self._rows["births"][mine] += 1
            _LOG.warning("the worker of %s %s; another takes over, they begin new episodes", _worlds(seat), why)
            self._strike([Crash(world, f"its worker {why}") for world in blamed])
            seat.start()
            answer = self._first(seat, START)
            if answer[0] == "ready":
                self._enter(seat)
                seat.send(("revive", self._number, self._seed))
                answer = self._first(seat, START)
            self._strike(self._crashes(answer))
            if answer[0] == "done":
                return
            why = answer[1]

    def _first(self, seat: Seat, seconds: float) -> tuple:
        return next(answer for _, answer in self._answers([seat], seconds))

    def _strike(self, crashes: Sequence[Crash]) -> None:
        for world, story in crashes:
            self._strikes[world] += 1
            last = story.strip().splitlines()[-1]
            _LOG.warning("world %d failed and begins a new episode: %s", world, last)
            if self._strikes[world] >= LIMIT:
                self.close()
                raise UserError(f"world {world} failed {LIMIT} times without a step between; the last time:\n{story}")

    def _check_open(self) -> None:
        if not self._rows:
            raise UserError("this pool is closed: make another")

    def _row(self) -> Step:
        """The newest row, copied: the next step overwrites the arrays."""
        at = {name: torch.from_numpy(array.copy()).to(self.device) for name, array in self._rows.items()}
        obs = {name: at[f"obs/{name}"] for name in self.spec.obs}
        return Step(obs, at["reward"], at["first"], at["last"], at["terminal"])


def _worlds(seat: Seat) -> str:
    return f"world{'s' * (len(seat.mine) > 1)} " + ", ".join(map(str, seat.mine))
