"""The white box as a Gymnasium environment, and the conversion of action spaces that it needs.

Importing this file registers 'isochrone/WhiteBox-v0'::

    gymnasium.make("isochrone.envs.to_gymnasium:isochrone/WhiteBox-v0", map="pipes", render_mode="rgb_array")
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.types import ActionSpec
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig

WHITEBOX_ID = "isochrone/WhiteBox-v0"


def action_space(spec: ActionSpec) -> spaces.Discrete | spaces.Box:
    """Gymnasium's name for our action space."""
    return spaces.Discrete(spec.size) if spec.discrete else spaces.Box(-1.0, 1.0, (spec.size,), np.float32)


def to_action(spec: ActionSpec, actions: Any, count: int) -> Tensor:
    """Gymnasium's batched actions (ints, or rows in [-1, 1]) as ours (count, A)."""
    raw = torch.as_tensor(np.asarray(actions))
    if not spec.discrete:
        return raw.float().reshape(count, spec.size)
    raw = raw.long().reshape(count)
    if not bool(((raw >= 0) & (raw < spec.size)).all()):
        raise UserError(f"actions {raw.tolist()} are out of range: must lie in 0..{spec.size - 1}")
    return spec.one_hot(raw)


class WhiteBoxEnv(gymnasium.Env):
    """One white box. Keyword arguments are the fields of `WhiteBoxConfig`. Observations are uint8 (64, 64, 3).

    Reward and end are those of the option `task`; with 'none' the reward is always 0 and no episode ends but by its
    length. `info` has the position (px).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # pyright: ignore[reportIncompatibleVariableOverride]  # gymnasium declares it so

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        names = [f.name for f in dataclasses.fields(WhiteBoxConfig)]
        for key in options:
            if key not in names:
                raise UserError(f"unknown option '{key}' of the white box{did_you_mean(key, names)}")
        self.render_mode = render_mode
        self.whitebox = WhiteBox(WhiteBoxConfig(**options))
        self.action_space = action_space(self.whitebox.spec.action)
        c, y, x = self.whitebox.spec.image
        self.observation_space = spaces.Box(0, 255, (y, x, c), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; without a seed the generator continues."""
        super().reset(seed=seed)
        self.whitebox.reset(int(self.np_random.integers(2**31)))
        return self._frame(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One action."""
        row = self.whitebox.step(to_action(self.whitebox.spec.action, action, 1))
        ends = bool(row.terminal[0]), bool(row.last[0] & ~row.terminal[0])
        return self._frame(), float(row.reward[0]), *ends, self._info()

    def render(self) -> np.ndarray | None:
        """The frame (64, 64, 3) when render_mode is 'rgb_array'."""
        return self._frame() if self.render_mode == "rgb_array" else None

    def _frame(self) -> np.ndarray:
        return np.ascontiguousarray(self.whitebox.draw(self.whitebox.state())[0].permute(1, 2, 0).cpu().numpy())

    def _info(self) -> dict[str, Any]:
        return {"position": self.whitebox.state().position[0].cpu().numpy().copy()}


if WHITEBOX_ID not in gymnasium.registry:
    gymnasium.register(WHITEBOX_ID, entry_point="isochrone.envs.to_gymnasium:WhiteBoxEnv")
