"""Any Gymnasium environment with pixels, or rendered to pixels, as a `VecEnv`.

Rows follow core/types: the row of an episode's end shows its final observation, and the next row (whose action is
ignored) begins the next episode. That is Gymnasium's NEXT_STEP autoreset, which is requested by name.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.images import shrink
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Step, check_num_envs
from isochrone.envs.env_pool import EnvPool
from isochrone.envs.gymnasium_probe import View, one_sentence, probe, render


@dataclass(frozen=True)
class GymConfig:
    """Options of the Gymnasium adapter."""

    name: ClassVar[str] = "gym"
    shorthand: ClassVar[str] = "id"
    id: str = option("CartPole-v1", "a Gymnasium id; 'package.module:Id-v0' imports the module first", imports=True)
    pixels: Literal["auto", "observation", "render"] = option(
        "auto", "what is shown (auto: the observation where that is a picture, else the rendering)"
    )
    key: str | None = option(None, "which entry of a Dict observation is the picture (none: the first with 3 channels)")
    vectors: Literal["auto", "all", "none"] = option(
        "auto", "vectors that models get too (auto: those beside a picture in a Dict observation)"
    )
    size: int = option(64, "pixels per side of the image", ge=1)
    action_repeat: int = option(1, "how often each action is applied; rewards add up", ge=1)
    episode_length: int | None = option(None, "actions until an episode is cut off (none: the environment's own)", ge=1)
    workers: int = option(0, "processes that share the environments (0: all in this one)", ge=0)
    timeout: float = option(60.0, "seconds a worker may take for one step before it is replaced", gt=0)

    def check(self, path: str) -> None:
        """UserError for an entry of the observation beside the rendering."""
        if self.key is not None and self.pixels == "render":
            raise UserError(f"{path}key = {self.key!r}: with {path}pixels = render no entry is shown; leave out one")


class Pixels(gymnasium.Wrapper):
    """One environment that shows {'image': uint8 (C, size, size), name: float32 vector}.

    Actions are repeated and episodes cut off as `config` says. `number` names the environment in messages.
    """

    def __init__(self, env: gymnasium.Env, config: GymConfig, view: View, number: int) -> None:
        super().__init__(env)
        self.config, self.view, self.number = config, view, number
        shown: dict[str, spaces.Space] = {
            "image": spaces.Box(0, 255, (view.channels, config.size, config.size), np.uint8)
        }
        shown |= {name: spaces.Box(-np.inf, np.inf, (view.size(name),), np.float32) for name in view.vectors}
        self.observation_space = spaces.Dict(shown)
        self.clock = 0

    def _observed(self, obs: Any) -> dict[str, np.ndarray]:
        view = self.view
        pixels: Any = render(self.config, self.env) if view.picture is None else obs
        for key in view.picture or ():
            pixels = pixels[key]
        image = torch.from_numpy(np.ascontiguousarray(view.image(pixels)))
        shown = {"image": shrink(image, self.config.size).numpy()}
        for name in view.vectors:
            shown[name] = view.vector(name, obs)
            if not np.isfinite(shown[name]).all():
                raise self._bad(name, shown[name][~np.isfinite(shown[name])][0])
        return shown

    def _bad(self, name: str, value: Any) -> UserError:
        return UserError(
            f"environment '{self.config.id}', number {self.number}, gave {name} {value} at step {self.clock} of an "
            "episode: it must be finite; correct the environment"
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        obs, _ = self.env.reset(seed=seed, options=options)
        self.clock = 0
        return self._observed(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, total, terminated, truncated = None, 0.0, False, False
        self.clock += 1
        for _ in range(self.config.action_repeat):
            obs, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        if not math.isfinite(total):
            raise self._bad("reward", total)
        truncated = truncated or (self.config.episode_length is not None and self.clock >= self.config.episode_length)
        return self._observed(obs), total, bool(terminated), bool(truncated), {}


@register("env", "gym")
class GymEnv:
    """B copies of a Gymnasium environment, stepped one after the other in this process or by `workers` at once.

    Observations are 'image' and the vectors that the environment shows (envs/gymnasium_probe.py chooses). Discrete
    actions arrive one-hot, Box actions in [-1, 1] are scaled to the environment's bounds. With workers an environment
    that fails begins a new episode (envs/env_pool.py). A worker process imports only this package: write
    'package.module:Id-v0' for an environment of your own.
    """

    Config = GymConfig

    def __init__(
        self,
        config: GymConfig | None = None,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        first: int = 0,
    ) -> None:
        """
        Args:
            first: the number of the first environment, for messages.

        Raises:
            UserError: the environment cannot be made or used (see `probe`), or its actions are neither Discrete nor a
                bounded Box.
        """
        self.config = config = config or GymConfig()
        check_num_envs(num_envs)
        self.num_envs, self.device = num_envs, torch.device(device)
        self._pool: EnvPool | None = None
        if config.workers:
            self._pool = EnvPool(partial(_single, config), num_envs, config.workers, config.timeout, device)
            self.spec = self._pool.spec
            return
        view = probe(config)
        self._space = view.action
        shown = {"image": (view.channels, config.size, config.size)}
        self.spec = Spec(shown | {name: (view.size(name),) for name in view.vectors}, _action_spec(view.action))
        with one_sentence(config, "cannot be made again"):
            self._envs = SyncVectorEnv(
                [partial(_wrapped, config, view, first + i) for i in range(num_envs)],
                autoreset_mode=AutoresetMode.NEXT_STEP,
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
            UserError: the action is not legal, a reward or vector is not finite, or the same environment failed three
                times in a row in its worker.
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
        shown = {name: torch.from_numpy(np.array(obs[name])).to(self.device) for name in self.spec.obs}
        return Step(shown, torch.tensor(reward, dtype=torch.float32, device=self.device), *flags)


def _single(config: GymConfig, number: int) -> GymEnv:
    """Environment `number` of a pool."""
    return GymEnv(dataclasses.replace(config, workers=0), first=number)


def _wrapped(config: GymConfig, view: View, number: int) -> gymnasium.Env:
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if view.picture is None else {}
    return Pixels(gymnasium.make(config.id, disable_env_checker=True, **mode), config, view, number)


def _action_spec(space: spaces.Discrete | spaces.Box) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n))
    idle = bool(np.all(space.low == -space.high))
    return ActionSpec("continuous", int(np.prod(space.shape)), noop=0 if idle else None)
