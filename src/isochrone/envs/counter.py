"""An environment that counts: every row contains its environment, episode, time and last action.

It is for tests of alignment: code that collects, stores, samples or models rows can check where each row comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Step, check_num_envs


@dataclass(frozen=True)
class CounterConfig:
    """Options of the counting environment."""

    name: ClassVar[str] = "counter"
    shorthand: ClassVar[str] = "length"
    length: int = option(
        7, "shortest episode, in actions; environments and episodes differ by up to 2 more", ge=1, le=1_000_000
    )
    actions: int = option(5, "number of discrete actions", ge=2, le=256)
    size: int = option(64, "pixels per side of the image", ge=1, le=512)


class Count(NamedTuple):
    """The numbers that a row contains."""

    env: Int[Tensor, "..."]
    episode: Int[Tensor, "..."]  # counted from 0
    time: Int[Tensor, "..."]  # actions since the episode began
    action: Int[Tensor, "..."]  # the action that led here; -1 on a first row


def read(state: Float[Tensor, "... 4"]) -> Count:
    """The numbers in `obs['state']`."""
    return Count(*state.round().long().unbind(-1))


@register("env", "counter")
class Counter:
    """B counters. Episode e of environment b has length + (b + e) % 3 actions; odd episodes end as terminal.

    `state` is (environment, episode, time, last action); `image` shows the last three, modulo 256, in its three
    channels (the action plus one). The reward for arriving at time t by action a is t + a / 10.
    """

    Config = CounterConfig

    def __init__(
        self, config: CounterConfig | None = None, num_envs: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config = config or CounterConfig()
        check_num_envs(num_envs)
        self.num_envs, self.device = num_envs, torch.device(device)
        obs = {"image": (3, config.size, config.size), "state": (4,)}
        self.spec = Spec(obs, ActionSpec("discrete", config.actions))
        self._count = torch.zeros(num_envs, 4, dtype=torch.long, device=self.device)
        self._last = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self.reset()

    def reset(self, seed: int | None = None) -> Step:
        """Begin with episode 0 everywhere; nothing is random, so the seed has no effect."""
        env = torch.arange(self.num_envs, device=self.device)
        self._count = torch.stack((env, env * 0, env * 0, env * 0 - 1), -1)
        return self._row(torch.ones_like(self._last))

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """Count on; an environment whose last row was `last` begins its next episode and ignores the action."""
        self.spec.action.check(action, self.num_envs)
        first = self._last
        env, episode, time, _ = self._count.unbind(-1)
        on = torch.stack((env, episode, time + 1, action.argmax(-1)), -1)
        anew = torch.stack((env, episode + 1, torch.zeros_like(time), torch.full_like(time, -1)), -1)
        self._count = torch.where(first[:, None], anew, on)
        return self._row(first)

    def close(self) -> None:
        """Nothing to close."""

    def _row(self, first: Tensor) -> Step:
        env, episode, time, action = self._count.unbind(-1)
        last = time >= self.config.length + (env + episode) % 3
        self._last = last
        colour = (torch.stack((episode, time, action + 1), -1) % 256).to(torch.uint8)
        image = colour[:, :, None, None].expand(-1, -1, self.config.size, self.config.size).contiguous()
        reward = torch.where(first, torch.zeros(1, device=self.device), time + action / 10)
        return Step({"image": image, "state": self._count.float()}, reward, first, last, last & (episode % 2 == 1))

    def state_dict(self) -> dict[str, Tensor]:
        """All that the future depends on."""
        return {"count": self._count.clone(), "last": self._last.clone()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self._count, self._last = saved["count"].to(self.device).clone(), saved["last"].to(self.device).clone()
