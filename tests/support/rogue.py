"""A counter that misbehaves when an action tells it to: what a pool of workers must survive."""

from __future__ import annotations

import os
import signal
import time

import torch

from isochrone.core.errors import UserError
from isochrone.core.types import Step
from isochrone.envs.counter import Counter, CounterConfig

CALM, RAISE, KILL, HANG, WAIT = range(5)  # the last two keep quiet for an hour, or just a little


class Rogue(Counter):
    """One world. Its state says (seed % 4096, episode, time, last action), so episodes also differ by their seed."""

    def __init__(self, world: int) -> None:
        super().__init__(CounterConfig(length=5, size=4), 1)

    def reset(self, seed: int | None = None) -> Step:
        """Begin anew."""
        super().reset(seed)
        self._count[:, 0] = (seed or 0) % 4096
        return self._row(torch.ones_like(self._last))

    def step(self, action: torch.Tensor) -> Step:
        """Count on, or do what the action says; after a `last` row the action is ignored as always."""
        what = int(action.argmax(-1)[0])
        if not self._last[0]:
            if what == RAISE:
                raise ValueError("boom")
            if what == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            if what == HANG:
                time.sleep(3600)
            if what == WAIT:
                time.sleep(0.01)
        return super().step(action)


class Stillborn(Rogue):
    """Begins no episode but the one of its own choice."""

    def reset(self, seed: int | None = None) -> Step:
        if seed not in (None, 77):
            raise ValueError(f"no life with seed {seed}")
        return super().reset(seed)


def refused(world: int) -> Rogue:
    """Says that its options are wrong."""
    raise UserError(f"size = -{world}: must be at least 1")


def broken(world: int) -> Rogue:
    """Cannot be made."""
    raise ValueError("no such simulator")


def uneven(world: int) -> Counter:
    """World 1 shows larger images than world 0."""
    return Counter(CounterConfig(size=4 + world), 1)


def crowd(world: int) -> Counter:
    """Two worlds where one is asked for."""
    return Counter(CounterConfig(), 2)
