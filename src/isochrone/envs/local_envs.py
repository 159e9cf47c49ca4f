"""Single environments stepped one after the other. One that raises is created again; the others are not affected.

Rows are written into arrays that hold every environment of a pool and may lie in memory shared by several processes.
This code is the same in the parent process and in a worker (envs/_worker_process.py), so the rows are the same too.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from isochrone.core.errors import UserError
from isochrone.core.protocols import VecEnv
from isochrone.core.types import Spec, Step

LIMIT = 3  # failures of one environment without a successful step between, after which the pool gives up
_ALIGN = 64  # bytes; every array begins on its own cache line

MakeEnv = Callable[[int], VecEnv]
"""Number in the pool -> an environment with num_envs = 1."""


class Crash(NamedTuple):
    """One failure of one environment, with its traceback as text."""

    env: int
    traceback: str


def columns(spec: Spec, num_envs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name -> (dtype, shape) of every array. 'image' is uint8, every other observation float32."""
    layout = {f"obs/{name}": ("u1" if name == "image" else "f4", (num_envs, *x)) for name, x in spec.obs.items()}
    layout |= {"action": ("f4", (num_envs, spec.action.size)), "reward": ("f4", (num_envs,))}
    layout |= {name: ("?", (num_envs,)) for name in ("first", "last", "terminal")}
    # restarts: how often an environment was created again since the last reset; busy: its simulator is running now.
    return layout | {"restarts": ("i8", (num_envs,)), "busy": ("?", (num_envs,))}


def bytes_of(spec: Spec, num_envs: int) -> int:
    """Bytes that `arrays` needs."""
    return sum(_padded(dtype, shape) for dtype, shape in columns(spec, num_envs).values())


def arrays(spec: Spec, num_envs: int, buffer: Any) -> dict[str, np.ndarray]:
    """The arrays of `columns`, one behind the other in `buffer`."""
    out, at = {}, 0
    for name, (dtype, shape) in columns(spec, num_envs).items():
        out[name] = np.ndarray(shape, dtype, buffer, at)
        at += _padded(dtype, shape)
    return out


def _padded(dtype: str, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGN) * _ALIGN


def seed_of(seed: int | None, env: int, restarts: int) -> int | None:
    """Environment i gets seed + i; after a failure a number drawn from that, so that no episode is repeated."""
    if seed is None or restarts == 0:
        return None if seed is None else seed + env
    return int(np.random.SeedSequence((seed + env, restarts)).generate_state(1)[0])


class LocalEnvs:
    """Some environments of a pool, by number. They read actions from `rows` and write into it: set it before `reset`.

    Raises:
        UserError: an environment refuses its options, or has num_envs > 1.
    """

    def __init__(self, make: MakeEnv, indices: Sequence[int]) -> None:
        self.make, self.indices = make, tuple(indices)
        self.envs: dict[int, VecEnv] = {}
        try:
            for index in self.indices:
                self.envs[index] = self._make(index)
        except BaseException:
            self.close()
            raise
        self.spec: Spec = self.envs[self.indices[0]].spec
        self.rows: dict[str, np.ndarray] = {}
        self.seed: int | None = None

    def reset(self, seed: int | None) -> list[Crash]:
        """Begin an episode in every environment. Returns the failures; after one, the next try has another seed."""
        self.rows["restarts"][list(self.indices)] = 0
        return self.restart(seed)

    def restart(self, seed: int | None) -> list[Crash]:
        """As `reset` with this seed, but `restarts` goes on counting; for environments whose worker was lost."""
        self.seed = seed
        return [crash for env in self.indices for crash in self._with_restarts(env, self._begin)]

    def step(self) -> list[Crash]:
        """Step every environment by `rows['action']`. One that fails begins a new episode: its row is a `first` row."""
        return [crash for env in self.indices for crash in self._with_restarts(env, self._act)]

    def close(self) -> None:
        """Close every environment; errors on closing are ignored."""
        while self.envs:
            self._drop(next(iter(self.envs)))

    def _with_restarts(self, index: int, call: Callable[[int], Step]) -> list[Crash]:
        crashes: list[Crash] = []
        self.rows["busy"][index] = True
        while len(crashes) < LIMIT:
            try:
                self._write(index, call(index))
                break
            except UserError:
                raise  # bad input: creating the environment again would not help
            except Exception:
                crashes.append(Crash(index, traceback.format_exc()))
                self.rows["restarts"][index] += 1
                call = self._make_and_begin
        self.rows["busy"][index] = False
        return crashes

    def _act(self, index: int) -> Step:
        return self.envs[index].step(torch.from_numpy(self.rows["action"][index : index + 1].copy()))

    def _begin(self, index: int) -> Step:
        seed: Any = seed_of(self.seed, index, int(self.rows["restarts"][index]))
        return self.envs[index].reset(seed)

    def _make_and_begin(self, index: int) -> Step:
        self._drop(index)
        self.envs[index] = self._make(index)
        return self._begin(index)

    def _make(self, index: int) -> VecEnv:
        env = self.make(index)
        if env.num_envs != 1:
            raise UserError(f"environment {index} of the pool has num_envs = {env.num_envs}: must be 1")
        return env

    def _drop(self, index: int) -> None:
        env = self.envs.pop(index, None)
        try:
            if env is not None:
                env.close()
        except Exception:
            return  # it has just failed; nothing more can be released

    def _write(self, index: int, row: Step) -> None:
        values = {f"obs/{name}": row.obs[name] for name in self.spec.obs}
        values |= {name: getattr(row, name) for name in ("reward", "first", "last", "terminal")}
        for name, value in values.items():
            array, slot = value.cpu().numpy(), self.rows[name][index : index + 1]
            if array.dtype != slot.dtype or array.shape != slot.shape:
                raise UserError(
                    f"environment {index} returned {name} as {array.dtype} {array.shape}: "
                    f"must be {slot.dtype} {slot.shape}"
                )
            slot[...] = array
