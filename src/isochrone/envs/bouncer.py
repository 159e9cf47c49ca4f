"""A ball that goes left or right: why a world model needs a stochastic part and a memory.

========  ==========================================================================================================
split     the ball falls from the top to the middle, then goes left or right at random. No frame before shows the
          side, so a deterministic prediction, the mean of both futures, shows a ball on both sides or on none
memory    a lamp at the upper left or right is lit on the first rows, on the side to which the ball will go; the next
          `delay` rows do not show the side, so the frame alone no longer determines the future
========  ==========================================================================================================

The ball moves sideways at constant speed and comes back from the walls. The two possible episodes are mirror
images of each other. Actions change nothing and the reward is always 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Step, Struct, check_num_envs, choose

SIZE, BALL = 64, 8  # px per side of the frame and of the ball
MIDDLE = (SIZE - BALL) // 2  # px; the ball's top left corner when it is in the middle of an axis
WHITE, AMBER = (255, 255, 255), (255, 180, 0)  # ball and lamp
MARGIN = 4  # px between a lamp and the nearest edges
ACTION = ActionSpec("discrete", 2, noop=0)


@dataclass(frozen=True)
class BouncerConfig:
    """Options of the bouncer."""

    name: ClassVar[str] = "bouncer"
    shorthand: ClassVar[str] = "variant"
    variant: Literal["split", "memory"] = option(
        "split", "the side is random (split), or shown by a lamp at the start (memory)"
    )
    episode_length: int = option(32, "actions until an episode is cut off", ge=1, le=1_000_000)
    speed: int = option(4, "px per step, sideways and (split) down", ge=1, le=MIDDLE)
    cue: int = option(2, "of memory: rows on which the lamp is lit", ge=1, le=1_000_000)
    delay: int = option(12, "of memory: rows between the lamp and the first move sideways", ge=1, le=1_000_000)

    @property
    def turn(self) -> int:
        """The last row whose frame is the same for both sides: the ball is in the middle."""
        return -(-MIDDLE // self.speed) if self.variant == "split" else self.cue + self.delay - 1

    def check(self, path: str) -> None:
        if self.episode_length <= self.turn:
            raise UserError(
                f"{path}episode_length = {self.episode_length}: the ball goes sideways on row {self.turn + 1} only; "
                f"make it at least {self.turn + 1}"
            )


@dataclass(frozen=True)
class BouncerState(Struct):
    """The true state of B balls (or any other leading shape). For evaluation only: `side` is set from the start."""

    side: Int[Tensor, "*B"]  # -1: the ball will go (or went) left, 1: right
    position: Float[Tensor, "*B 2"]  # px, (x, y) of the ball's top left corner, in [0, 56]
    clock: Int[Tensor, "*B"]  # actions since the episode began


@register("env", "bouncer")
class Bouncer:
    """B balls, all stepped together (`VecEnv`), with their true state: `state`, `transition`, `draw` and `frames`."""

    Config = BouncerConfig

    def __init__(
        self, config: BouncerConfig | None = None, num_envs: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """
        Raises:
            UserError: an option out of range, an episode that ends before the ball turns, or num_envs below 1.
        """
        self.config: BouncerConfig = validate(config or BouncerConfig())
        check_num_envs(num_envs)
        self.num_envs, self.device = num_envs, torch.device(device)
        self.spec = Spec({"image": (3, SIZE, SIZE)}, ACTION)
        self._rng = torch.Generator(self.device).manual_seed(0)
        self._state = self._fresh()
        self._last = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self.reset()

    # --- VecEnv ----------------------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode in every environment. The same seed gives the same run; None continues the generator."""
        if seed is not None:
            self._rng.manual_seed(seed)
        self._state = self._fresh()
        return self._row(torch.ones_like(self._last))

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """Move the balls. An environment whose last row was `last` begins a new episode instead.

        Raises:
            UserError: wrong shape or not one-hot.
        """
        ACTION.check(action, self.num_envs)
        first = self._last
        state = self.transition(self._state, action)
        if bool(first.any()):
            state = choose(first, self._fresh(), state)
        self._state = state
        return self._row(first)

    def close(self) -> None:
        """Nothing to close."""

    def _row(self, first: Tensor) -> Step:
        self._last = last = self._state.clock >= self.config.episode_length
        reward = torch.zeros(self.num_envs, device=self.device)
        return Step({"image": self.draw(self._state)}, reward, first, last, torch.zeros_like(last))

    # --- truth -----------------------------------------------------------------------------------------------------

    @property
    def turn(self) -> int:
        """The last row whose frame is the same for both sides."""
        return self.config.turn

    @property
    def episode_length(self) -> int:
        """Actions until an episode is cut off."""
        return self.config.episode_length

    def state(self) -> BouncerState:
        """The current state."""
        return self._state

    def side(self) -> Int[Tensor, "B"]:
        """The side, -1 or 1, to which each ball goes in its current episode."""
        return self._state.side

    def transition(self, state: BouncerState, action: Float[Tensor, "*B A"] | None = None) -> BouncerState:
        """The state one step later: pure, for any leading shape. The action changes nothing."""
        return self._at(state.side, state.clock + 1)

    def draw(self, state: BouncerState) -> UInt8[Tensor, "*B 3 64 64"]:
        """Frames of any number of balls."""
        frame = _square(state.position, WHITE)
        if self.config.variant == "split":
            return frame
        edge = torch.where(state.side > 0, SIZE - BALL - MARGIN, MARGIN)
        lamp = _square(torch.stack((edge, torch.full_like(edge, MARGIN)), -1).float(), AMBER)
        return torch.maximum(frame, lamp * (state.clock < self.config.cue)[..., None, None, None])

    def frames(self, side: Int[Tensor, "B"], steps: int | None = None) -> UInt8[Tensor, "B T 3 64 64"]:
        """The first T = `steps` frames of an episode (None: all, episode_length + 1) in which the ball goes to `side`.

        Args:
            side: -1 or 1 for each episode.

        Raises:
            UserError: another side, or more rows than an episode has.
        """
        rows = self.config.episode_length + 1
        steps = rows if steps is None else steps
        if not 1 <= steps <= rows:
            raise UserError(f"steps = {steps}: an episode has {rows} rows, ask for 1 to {rows}")
        if not bool((side.abs() == 1).all()):
            raise UserError(f"side = {side.tolist()}: must be -1 (left) or 1 (right)")
        clock = torch.arange(steps, device=self.device).expand(len(side), -1)
        return self.draw(self._at(side.to(self.device)[:, None].expand(-1, steps), clock))

    # --- exact resume ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the future depends on, as tensors."""
        now = self._state
        return {"side": now.side.clone(), "clock": now.clock.clone(), "rng": self._rng.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            UserError: saved with another num_envs.
        """
        if saved["side"].shape != (self.num_envs,):
            raise UserError(
                f"saved state has num_envs = {len(saved['side'])}, this run {self.num_envs}: use the same num_envs"
            )
        self._state = self._at(saved["side"].to(self.device).clone(), saved["clock"].to(self.device).clone())
        self._last = self._state.clock >= self.config.episode_length
        self._rng.set_state(saved["rng"].cpu())

    # --- inside ----------------------------------------------------------------------------------------------------

    def _at(self, side: Int[Tensor, "*B"], clock: Int[Tensor, "*B"]) -> BouncerState:
        """The whole motion, as a function of time."""
        turn, speed = self.config.turn, self.config.speed
        if self.config.variant == "split":
            y = (clock * speed).clamp(max=MIDDLE)
        else:  # so slow that it arrives when it turns
            y = clock.clamp(max=turn) * MIDDLE // turn
        gone = (clock - turn).clamp(min=0) * speed  # px travelled sideways
        away = MIDDLE - ((gone + MIDDLE) % (4 * MIDDLE) - 2 * MIDDLE).abs()  # from the middle, in [-28, 28]
        return BouncerState(side, torch.stack((MIDDLE + side * away, y), -1).float(), clock)

    def _fresh(self) -> BouncerState:
        """Every ball at the beginning of an episode."""
        coin = torch.randint(2, (self.num_envs,), generator=self._rng, device=self.device)
        return self._at(coin * 2 - 1, torch.zeros_like(coin))


def _square(corner: Float[Tensor, "*B 2"], colour: tuple[int, int, int]) -> UInt8[Tensor, "*B 3 64 64"]:
    """A square of the ball's size on black."""
    line = torch.arange(SIZE, device=corner.device)
    inside = (line >= corner[..., None]) & (line < corner[..., None] + BALL)  # (*B, 2, 64)
    shape = inside[..., 1, :, None] & inside[..., 0, None, :]  # (*B, 64, 64)
    paint = torch.tensor(colour, dtype=torch.uint8, device=corner.device)
    return shape[..., None, :, :] * paint[:, None, None]
