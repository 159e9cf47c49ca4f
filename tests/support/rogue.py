"""A counter that misbehaves on certain actions, for tests of a pool of workers."""

from __future__ import annotations

import os
import signal
import time

import torch

from isochrone.core.errors import UserError
from isochrone.core.types import Step
from isochrone.envs.counter import Counter, CounterConfig

CALM, RAISE, KILL, HANG, WAIT = range(5)  # the last two wait for an hour, or for 10 ms


class Rogue(Counter):
    """One environment. Its state is (seed % 4096, episode, time, last action), so it also depends on the seed."""

    def __init__(self, number: int) -> None:
        super().__init__(CounterConfig(length=5, size=4), 1)

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode."""
        super().reset(seed)
        self._count[:, 0] = (seed or 0) % 4096
        return self._row(torch.ones_like(self._last))

    def step(self, action: torch.Tensor) -> Step:
        """Count on, or fail as the action requires; after a `last` row the action is ignored as always."""
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


class Unstartable(Rogue):
    """Fails on every reset but those with seed None or 77."""

    def reset(self, seed: int | None = None) -> Step:
        if seed not in (None, 77):
            raise ValueError(f"cannot start with seed {seed}")
        return super().reset(seed)


def refused(number: int) -> Rogue:
    """Refuses its options."""
    raise UserError(f"size = -{number}: must be at least 1")


def broken(number: int) -> Rogue:
    """Cannot be made."""
    raise ValueError("no such simulator")


def uneven(number: int) -> Counter:
    """Environment 1 has larger images than environment 0."""
    return Counter(CounterConfig(size=4 + number), 1)


def crowd(number: int) -> Counter:
    """num_envs = 2 where 1 is required."""
    return Counter(CounterConfig(), 2)
