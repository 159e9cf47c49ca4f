"""One-world environments stepped one after the other. A world that raises is made anew; the others do not notice.

Rows are written into arrays that hold every world of a pool and may lie in memory shared by several processes. All
here is the same whether the worlds live in this process or in a worker's (envs/workers.py), so the rows are too.
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

LIMIT = 3  # crashes of one world without a successful step between, after which a restart mends nothing
_ALIGN = 64  # bytes; every array begins on a cache line of its own

Make = Callable[[int], VecEnv]
"""Number of the world -> an environment with num_envs = 1."""


class Crash(NamedTuple):
    """One failure of one world, with its traceback as text."""

    world: int
    story: str


def columns(spec: Spec, worlds: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name -> (dtype, shape) of every array. 'image' is uint8, every other observation float32."""
    found = {f"obs/{name}": ("u1" if name == "image" else "f4", (worlds, *shape)) for name, shape in spec.obs.items()}
    found |= {"action": ("f4", (worlds, spec.action.size)), "reward": ("f4", (worlds,))}
    found |= {name: ("?", (worlds,)) for name in ("first", "last", "terminal")}
    # How often a world was made anew since the last reset, and whether its simulator is at work just now.
    return found | {"births": ("i8", (worlds,)), "busy": ("?", (worlds,))}


def room(spec: Spec, worlds: int) -> int:
    """Bytes that `arrays` needs."""
    return sum(_padded(dtype, shape) for dtype, shape in columns(spec, worlds).values())


def arrays(spec: Spec, worlds: int, buffer: Any) -> dict[str, np.ndarray]:
    """The arrays of `columns`, laid one behind the other into `buffer`."""
    out, at = {}, 0
    for name, (dtype, shape) in columns(spec, worlds).items():
        out[name] = np.ndarray(shape, dtype, buffer, at)
        at += _padded(dtype, shape)
    return out


def _padded(dtype: str, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGN) * _ALIGN


def seed_of(seed: int | None, world: int, births: int) -> int | None:
    """World i is seeded with seed + i; after a crash with a number drawn from that, so that no episode is repeated."""
    if seed is None or births == 0:
        return None if seed is None else seed + world
    return int(np.random.SeedSequence((seed + world, births)).generate_state(1)[0])


class Worlds:
    """Some worlds of a pool. `rows` is where they write and find their actions; set it before the first `reset`.

    Raises:
        UserError: an environment refuses its options, or holds more than one world.
    """

    def __init__(self, make: Make, mine: Sequence[int]) -> None:
        self.make, self.mine = make, tuple(mine)
        self.envs: dict[int, VecEnv] = {}
        try:
            for world in self.mine:
                self.envs[world] = self._made(world)
        except BaseException:
            self.close()
            raise
        self.spec: Spec = self.envs[self.mine[0]].spec
        self.rows: dict[str, np.ndarray] = {}
        self.seed: int | None = None

    def reset(self, seed: int | None) -> list[Crash]:
        """Begin an episode everywhere. Returns what failed on the way; such a world tried again with another seed."""
        self.rows["births"][list(self.mine)] = 0
        return self.revive(seed)

    def revive(self, seed: int | None) -> list[Crash]:
        """Take over from worlds that were reset with `seed` and are gone: as `reset`, but `births` goes on counting."""
        self.seed = seed
        return [crash for world in self.mine for crash in self._guarded(world, self._begin)]

    def step(self) -> list[Crash]:
        """Take `rows['action']` everywhere. A world that fails begins a new episode: its row is a `first` row."""
        return [crash for world in self.mine for crash in self._guarded(world, self._act)]

    def close(self) -> None:
        """Close every environment; one that cannot be closed is left to its fate."""
        while self.envs:
            self._drop(next(iter(self.envs)))

    def _guarded(self, world: int, do: Callable[[int], Step]) -> list[Crash]:
        crashes: list[Crash] = []
        self.rows["busy"][world] = True
        while len(crashes) < LIMIT:
            try:
                self._write(world, do(world))
                break
            except UserError:
                raise  # bad input stays bad, however often the world is made
            except Exception:
                crashes.append(Crash(world, traceback.format_exc()))
                self.rows["births"][world] += 1
                do = self._remake
        self.rows["busy"][world] = False
        return crashes

    def _act(self, world: int) -> Step:
        return self.envs[world].step(torch.from_numpy(self.rows["action"][world : world + 1].copy()))

    def _begin(self, world: int) -> Step:
        seed: Any = seed_of(self.seed, world, int(self.rows["births"][world]))
        return self.envs[world].reset(seed)

    def _remake(self, world: int) -> Step:
        self._drop(world)
        self.envs[world] = self._made(world)
        return self._begin(world)

    def _made(self, world: int) -> VecEnv:
        env = self.make(world)
        if env.num_envs != 1:
            raise UserError(f"a pool is made of one-world environments, but world {world} holds {env.num_envs}")
        return env

    def _drop(self, world: int) -> None:
        env = self.envs.pop(world, None)
        try:
            if env is not None:
                env.close()
        except Exception:
            return  # it has just crashed; what it cannot give back is lost either way

    def _write(self, world: int, row: Step) -> None:
        found = {f"obs/{name}": row.obs[name] for name in self.spec.obs} | {
            name: getattr(row, name) for name in ("reward", "first", "last", "terminal")
        }
        for name, value in found.items():
            array, slot = value.cpu().numpy(), self.rows[name][world : world + 1]
            if array.dtype != slot.dtype or array.shape != slot.shape:
                raise UserError(
                    f"world {world} gave {name} as {array.dtype} {array.shape}: must be {slot.dtype} {slot.shape}"
                )
            slot[...] = array
