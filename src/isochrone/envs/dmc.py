"""DeepMind Control from pixels, drawn in software. Needs an extra: pip install 'isochrone[dmc]'.

An action is repeated as in the PlaNet paper (arXiv 1811.04551 v5, table in its appendix) and the rewards of the repeats
add up: the tasks pay 0 to 1 per raw step, so a row is worth at most `action_repeat`, and an episode of 1000 raw steps
at most 1000, whatever the action repeat. With EGL, step an environment only from the thread that created it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.errors import MissingExtra, UserError, did_you_mean
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Step
from isochrone.envs.env_pool import EnvPool

PACKAGES = ("dm_control", "mujoco")
LIMIT = 1000  # raw steps of an episode; most tasks stop there by themselves
REPEATS = {"cartpole": 8, "reacher": 4, "cheetah": 4, "finger": 2, "ball_in_cup": 4, "walker": 2}  # PlaNet; others 2
DOMAINS = {"cup": "ball_in_cup", "pointmass": "point_mass"}  # as papers call them
NEWEST = (3, 12)  # the first mujoco that dm_control's tasks do not load with
UNBOUNDED = 1e9  # dm_control says 1e10 where an actuator has no bounds
# MUJOCO_GL -> files of the library that draws, and the Debian packages that bring them
DRAWERS = {
    "egl": (("libEGL.so.1",), "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"),
    "osmesa": (("libOSMesa.so.8", "libOSMesa.so.6"), "libosmesa6 libgl1"),
}


@dataclass(frozen=True)
class DmcConfig:
    """Options of DeepMind Control."""

    name: ClassVar[str] = "dmc"
    shorthand: ClassVar[str] = "task"
    task: str = option("cartpole-swingup", "domain-task, e.g. walker-walk; cup-catch is ball_in_cup-catch")
    action_repeat: int = option(
        0, "how often each action is applied; rewards add up (0: as PlaNet does for the task)", ge=0
    )
    size: int = option(64, "pixels per side of the image", ge=1, le=480)
    camera: int = option(0, "which of the task's cameras draws (-1: the free one)", ge=-1)
    fast_render: bool = option(False, "no shadows: several times faster where they are drawn in software")
    state: bool = option(False, "also observe 'state', the task's own observations as one vector")
    workers: int = option(0, "processes that share the environments (0: all in this one)", ge=0, le=256)
    timeout: float = option(60.0, "seconds a worker may take for one step before it is replaced", gt=0, le=86_400)


@register("env", "dmc")
class Dmc(EnvPool):
    """DeepMind Control from pixels (needs the extra dmc): B environments of one task.

    Observations are images (3, size, size) and, if asked for, 'state'.

    Actions in [-1, 1] are scaled to the task's bounds. An episode is `last` after 1000 raw steps, and `terminal` only
    where the task itself ends with discount 0. `reset(seed)` seeds environment i with seed + i. Call `close`.
    """

    Config = DmcConfig

    def __init__(self, config: DmcConfig | None = None, num_envs: int = 1, device: torch.device | str = "cpu") -> None:
        """
        Raises:
            UserError: unknown task or camera, mujoco too new, or a package or a library that draws is missing.
        """
        for package in PACKAGES:  # now, not when this file is imported: a config can be read without them
            if not _installed(package):
                raise MissingExtra("env 'dmc'", package, "dmc")
        self.config = config = config or DmcConfig()
        super().__init__(partial(SingleDmc, config), num_envs, config.workers, config.timeout, device)


class SingleDmc:
    """One environment. `number` is its number in the pool; it has no effect, since only the seeds differ."""

    num_envs = 1

    def __init__(self, config: DmcConfig, number: int = 0) -> None:
        self.config = config
        self._suite, self._lens = _suite()
        self.domain, self.task = find_task(config.task, self._suite.ALL_TASKS)
        self.action_repeat = config.action_repeat or REPEATS.get(self.domain, 2)
        self._env: Any = None
        self._camera: Any = None
        self._load(None)
        bounds = self._env.action_spec()
        self._low, self._high = bounds.minimum, bounds.maximum
        if max(np.abs(self._low).max(), np.abs(self._high).max()) > UNBOUNDED:
            self.close()
            raise UserError(
                f"task '{config.task}' takes actions without bounds: choose one whose actuators are limited"
            )
        idle = bool(np.all(self._low == -self._high))
        obs: dict[str, tuple[int, ...]] = {"image": (3, config.size, config.size)}
        if config.state:
            obs["state"] = flat(self._env.reset().observation).shape
        self.spec = Spec(obs, ActionSpec("continuous", len(self._low), noop=0 if idle else None))
        self._clock, self._over = 0, False

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode. A seed loads the task again: some tasks draw their model from it, not only the start."""
        if seed is not None:
            self.close()
            self._load(seed % 2**32)  # numpy's old generator takes no more
        return self._begin()

    def step(self, action: Float[Tensor, "1 A"]) -> Step:
        """Apply the action `action_repeat` times, or until the episode ends; after a `last` row begin an episode."""
        if self._over:
            return self._begin()
        unit = (action[0].double().numpy() + 1) / 2
        force = np.clip(self._low + unit * (self._high - self._low), self._low, self._high)
        total, now = 0.0, None
        for _ in range(self.action_repeat):
            now = self._env.step(force)
            self._clock += 1
            total += now.reward or 0.0
            self._over = now.last() or self._clock >= LIMIT
            if self._over:
                break
        assert now is not None
        return self._row(now, total, terminal=now.last() and now.discount == 0)

    def close(self) -> None:
        """Free the graphics context now: at the interpreter's exit it is too late and prints errors."""
        env, camera, self._env, self._camera = self._env, self._camera, None, None
        if camera is not None:
            camera.scene.free()
        if env is not None:
            env.close()
            env.physics.free()

    def _begin(self) -> Step:
        self._clock, self._over = 0, False
        return self._row(self._env.reset(), 0.0, terminal=False)

    def _load(self, seed: int | None) -> None:
        self._env = env = self._suite.load(self.domain, self.task, task_kwargs={"random": seed})
        size, model = self.config.size, env.physics.model
        if self.config.camera >= model.ncam:
            has = f"task '{self.config.task}' has cameras -1 to {model.ncam - 1}"
            raise UserError(f"camera = {self.config.camera}: {has}")
        # read when the graphics context is made, so before that: every frame clears and resolves the whole buffer
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        if self.config.fast_render:
            model.vis.quality.shadowsize = 0  # not the multisampling: it is cheap, and a pole is one pixel wide
        try:
            _ = env.physics.contexts
        except Exception as error:
            raise _cannot_draw(f"the graphics context cannot be made ({error})") from error
        # made once per environment: physics.render makes a scene for every frame, which takes longer than to draw it
        self._camera = self._lens(env.physics, size, size, self.config.camera)

    def _row(self, now: Any, reward: float, terminal: bool) -> Step:
        pixels = self._camera.render()  # (Y, X, C), a view of the camera's own buffer
        obs = {"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]}
        if self.config.state:
            obs["state"] = torch.from_numpy(flat(now.observation))[None]
        flags = [torch.tensor([bool(x)]) for x in (now.first(), self._over, terminal)]
        return Step(obs, torch.tensor([reward], dtype=torch.float32), *flags)


def flat(observation: Mapping[str, Any]) -> np.ndarray:
    """The task's observations in its own order, as one float32 vector."""
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def find_task(name: str, tasks: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """(domain, task) of 'domain-task'; 'domain_task' and PlaNet's 'cup' are understood too.

    Raises:
        UserError: there is no such task; names the nearest.
    """
    task_name = name.replace("-", "_")
    for short, long in DOMAINS.items():
        if task_name.startswith(f"{short}_"):
            task_name = long + task_name.removeprefix(short)
    for domain, task in tasks:
        if task_name == f"{domain}_{task}":
            return domain, task
    raise UserError(f"no task '{name}' in DeepMind Control{did_you_mean(name, ['-'.join(pair) for pair in tasks])}")


# --- dm_control itself


def _suite() -> tuple[Any, Any]:
    """dm_control's suite and Camera, imported once it is sure that they can load and draw."""
    version = metadata.version("mujoco")
    if tuple(int(part) for part in version.split(".")[:2]) >= NEWEST:
        raise UserError(
            f"mujoco {version} is too new for dm_control's tasks: pip install 'mujoco<3.12' 'dm_control<1.0.45'"
        )
    if sys.platform == "linux":
        _choose_drawer()
    # Contexts then stay in the thread that made them; the helper threads outlive the interpreter and print errors.
    os.environ.setdefault("DISABLE_RENDER_THREAD_OFFLOADING", "1")
    try:
        from dm_control import suite  # pyright: ignore[reportMissingImports]
        from dm_control.mujoco.engine import Camera  # pyright: ignore[reportMissingImports]
    except Exception as error:  # PyOpenGL fails in many ways where a library is missing
        raise _cannot_draw(f"dm_control cannot be imported ({error})") from error
    return suite, Camera


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # something without a spec stands in its place
        return False


def _choose_drawer() -> None:
    """MUJOCO_GL = egl, or osmesa where only that is installed; what the user set stays, and is checked."""
    drawer = os.environ.get("MUJOCO_GL", "").lower()
    if not drawer:
        drawer = next((name for name, (files, _) in DRAWERS.items() if _loads(files)), "egl")
    if drawer in DRAWERS and not _loads(DRAWERS[drawer][0]):
        raise _cannot_draw(f"{DRAWERS[drawer][0][0]} is missing", drawer)
    os.environ["MUJOCO_GL"] = drawer


def _loads(files: tuple[str, ...]) -> bool:
    for file in files:
        try:
            ctypes.CDLL(file)
            return True
        except OSError:
            continue
    return False


def _cannot_draw(why: str, drawer: str = "") -> UserError:
    drawer = drawer or os.environ.get("MUJOCO_GL", "")
    hint = "unset MUJOCO_GL, or set it to egl or osmesa"
    if drawer in DRAWERS:
        hint = f"install the system packages {DRAWERS[drawer][1]} (Debian, Ubuntu)"
    return UserError(f"no frames with MUJOCO_GL={drawer}: {why}; {hint}")
