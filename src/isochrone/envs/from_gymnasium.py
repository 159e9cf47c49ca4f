"""Any Gymnasium environment with pixels, or rendered to pixels, as a `VecEnv`.

Rows follow core/types: the row of an episode's end shows its final observation, and the next row (whose action is
ignored) begins the next episode. That is Gymnasium's NEXT_STEP autoreset, which is requested by name.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from jaxtyping import Float, UInt8
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Step, check_num_envs
from isochrone.envs.env_pool import EnvPool

IMAGE_KEYS = ("image", "pixels", "rgb", "rgb_array")


@dataclass(frozen=True)
class GymConfig:
    """Options of the Gymnasium adapter."""

    name: ClassVar[str] = "gym"
    shorthand: ClassVar[str] = "id"
    id: str = option("CartPole-v1", "a Gymnasium id; 'package.module:Id-v0' imports the module first", imports=True)
    size: int = option(64, "pixels per side of the image", ge=1)
    action_repeat: int = option(1, "how often each action is applied; rewards add up", ge=1)
    episode_length: int | None = option(None, "actions until an episode is cut off (none: the environment's own)", ge=1)
    workers: int = option(0, "processes that share the environments (0: all in this one)", ge=0)
    timeout: float = option(60.0, "seconds a worker may take for one step before it is replaced", gt=0)


class Pixels(gymnasium.Wrapper):
    """One environment whose observation is a uint8 image (3, size, size), with repeated actions and a length limit."""

    def __init__(self, env: gymnasium.Env, config: GymConfig, key: str | None, rendered: bool) -> None:
        super().__init__(env)
        self.config, self.key, self.rendered = config, key, rendered
        self.observation_space = spaces.Box(0, 255, (3, config.size, config.size), np.uint8)
        self.clock = 0

    def _image(self, obs: Any) -> np.ndarray:
        pixels = self.env.render() if self.rendered else obs if self.key is None else obs[self.key]
        if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
            raise UserError(f"environment '{self.config.id}' rendered {type(pixels).__name__}: need an rgb array")
        return shrink(torch.from_numpy(np.ascontiguousarray(pixels)), self.config.size).numpy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        obs, _ = self.env.reset(seed=seed, options=options)
        self.clock = 0
        return self._image(obs), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, total, terminated, truncated = None, 0.0, False, False
        for _ in range(self.config.action_repeat):
            obs, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self.clock += 1
        truncated = truncated or (self.config.episode_length is not None and self.clock >= self.config.episode_length)
        return self._image(obs), total, terminated, truncated, {}


def shrink(pixels: UInt8[Tensor, "..."], size: int) -> UInt8[Tensor, "3 Y X"]:
    """A (Y, X), (Y, X, C) or (C, Y, X) image as (3, size, size), by area averaging; without alpha, grey tripled."""
    image = pixels[..., None] if pixels.dim() == 2 else pixels
    if image.shape[-1] in (1, 3, 4):
        image = image.permute(2, 0, 1)
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    if tuple(image.shape[1:]) == (size, size):
        return image.contiguous()
    small = torch.nn.functional.interpolate(image[None].float(), size=(size, size), mode="area")[0]
    return small.round().clamp(0, 255).to(torch.uint8)


@register("env", "gym")
class GymEnv:
    """B copies of a Gymnasium environment, stepped one after the other in this process or by `workers` at once.

    Discrete actions arrive one-hot, Box actions in [-1, 1] are scaled to the environment's bounds. With workers an
    environment that fails begins a new episode (envs/env_pool.py). A worker process imports only this package: write
    'package.module:Id-v0' for an environment of your own.
    """

    Config = GymConfig

    def __init__(self, config: GymConfig | None = None, num_envs: int = 1, device: torch.device | str = "cpu") -> None:
        """
        Raises:
            UserError: unknown id, missing package, no pixels, or actions that are neither Discrete nor a bounded Box.
        """
        self.config = config = config or GymConfig()
        check_num_envs(num_envs)
        self.num_envs, self.device = num_envs, torch.device(device)
        self._pool: EnvPool | None = None
        _headless()
        if config.workers:
            self._pool = EnvPool(partial(_single, config), num_envs, config.workers, config.timeout, device)
            self.spec = self._pool.spec
            return
        key, rendered, space = _inspect(config)
        self._space = space
        self.spec = Spec({"image": (3, config.size, config.size)}, _action_spec(space, config.id))
        mode: dict[str, Any] = {"render_mode": "rgb_array"} if rendered else {}
        self._envs = gymnasium.make_vec(
            config.id,
            num_envs=num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP},
            wrappers=[lambda env: Pixels(env, config, key, rendered)],
            **mode,
        )
        self._last = torch.zeros(num_envs, dtype=torch.bool)

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode in every environment; environment i is seeded with seed + i."""
        if self._pool is not None:
            return self._pool.reset(seed)
        obs, _ = self._envs.reset(seed=seed)
        yes = np.ones(self.num_envs, dtype=bool)
        self._last = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._row(obs, np.zeros(self.num_envs), yes, ~yes, ~yes)

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """Step every environment; one whose last row was `last` begins a new episode and ignores its action.

        Raises:
            UserError: the action is not legal, or the same environment failed three times in a row in its worker.
        """
        if self._pool is not None:
            return self._pool.step(action)
        self.spec.action.check(action, self.num_envs)
        obs, reward, terminated, truncated, _ = self._envs.step(self._outward(action))
        return self._row(obs, reward, self._last.numpy(), terminated | truncated, terminated)

    def close(self) -> None:
        """Close the environments."""
        if self._pool is not None:
            return self._pool.close()
        self._envs.close()

    def _outward(self, action: Tensor) -> np.ndarray:
        if isinstance(self._space, spaces.Discrete):
            return action.argmax(-1).cpu().numpy() + int(self._space.start)
        box = self._space
        unit = (action.double().cpu().numpy().reshape(self.num_envs, *box.shape) + 1) / 2
        return np.clip(box.low + unit * (box.high - box.low), box.low, box.high).astype(box.dtype)

    def _row(self, obs: Any, reward: Any, first: Any, last: Any, terminal: Any) -> Step:
        self._last = torch.from_numpy(np.array(last))
        flags = [torch.from_numpy(np.array(x, dtype=bool)).to(self.device) for x in (first, last, terminal)]
        image = torch.from_numpy(np.array(obs)).to(self.device)
        return Step({"image": image}, torch.tensor(reward, dtype=torch.float32, device=self.device), *flags)


def _headless() -> None:
    """Without a screen, keep pygame from looking for one: it prints a warning for every environment."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _single(config: GymConfig, number: int) -> GymEnv:
    """One environment of a worker; `number` has no effect, since only the seeds differ."""
    return GymEnv(dataclasses.replace(config, workers=0))


def _inspect(config: GymConfig) -> tuple[str | None, bool, spaces.Discrete | spaces.Box]:
    """(key of the image in a Dict observation, must frames be rendered, action space)."""
    try:
        env = gymnasium.make(config.id)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"environment '{config.id}' cannot be made: {error}") from error
    try:
        obs_space, space = env.observation_space, env.action_space
        modes = env.metadata.get("render_modes", [])
    finally:
        env.close()
    if not isinstance(space, (spaces.Discrete, spaces.Box)):
        raise UserError(f"environment '{config.id}' takes {type(space).__name__} actions: need Discrete or Box")
    if _is_image(obs_space):
        return None, False, space
    if isinstance(obs_space, spaces.Dict):
        for key in (*IMAGE_KEYS, *obs_space):
            if key in obs_space.spaces and _is_image(obs_space[key]):
                return key, False, space
    if "rgb_array" not in modes:
        raise UserError(
            f"environment '{config.id}' has no pixels: its observation is {obs_space} and it cannot render "
            "'rgb_array'; choose one with image observations or that render mode"
        )
    _try_render(config.id)
    return None, True, space


def _try_render(name: str) -> None:
    """Rendering often needs a further package: fail now, not in the middle of a run."""
    try:
        env = gymnasium.make(name, render_mode="rgb_array")
        env.reset()
        env.render()
        env.close()
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"environment '{name}' cannot render pixels: {error}") from error


def _is_image(space: Any) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and bool({space.shape[0], space.shape[-1]} & {1, 3, 4}))


def _action_spec(space: spaces.Discrete | spaces.Box, name: str) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n))
    if not space.is_bounded() or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"environment '{name}' takes actions {space}: need real numbers with finite bounds")
    idle = bool(np.all(space.low == -space.high))
    return ActionSpec("continuous", int(np.prod(space.shape)), noop=0 if idle else None)
