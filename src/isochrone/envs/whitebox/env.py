"""The white box: a white square on a black frame, thousands at once, with its ground truth.

`step` is `transition` followed by `draw`; physics and pixels exist once each.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Spec, Step, check_num_envs, choose
from isochrone.envs.whitebox import maps
from isochrone.envs.whitebox.distances import Distances
from isochrone.envs.whitebox.draw import NOISE_PERIOD, SIZE, Canvas
from isochrone.envs.whitebox.oracle import best_return
from isochrone.envs.whitebox.physics import (
    PX,
    SPEED,
    Lattice,
    Physics,
    after_table,
    lattice,
    number,
    push_table,
    velocity_table,
)
from isochrone.envs.whitebox.state import (
    CONTINUOUS,
    DISCRETE,
    BoxState,
    WhiteBoxConfig,
    at_rest,
    pack,
    same_shape,
    unpack,
)
from isochrone.envs.whitebox.task import make


@register("env", "whitebox")
class WhiteBox:
    """B white boxes (`GroundTruth`). The true state and everything computed from it are for evaluation only.

    Discrete actions move by a cell (4 px), continuous ones by 4 px times (dx, dy); half of it in a slow zone, twice in
    a fast one. With momentum an action adds 4 px per step to the velocity, each axis stays within 4 px per step, and an
    axis that meets something stops; 'stay' then pushes nothing, so a moving box glides on. What is rewarded, if
    anything, is the `task`'s.
    """

    Config = WhiteBoxConfig

    def __init__(
        self, config: WhiteBoxConfig | None = None, num_envs: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """
        Raises:
            UserError: unknown or wrong map, a start that is no free cell, or num_envs below 1.
        """
        config = config or WhiteBoxConfig()
        check_num_envs(num_envs)
        self.config, self.num_envs, self.device = config, num_envs, torch.device(device)
        self.map = maps.load(config.map, config.map_file)
        self.discrete = config.actions == "discrete"
        self.spec = Spec({"image": (3, SIZE, SIZE)}, DISCRETE if self.discrete else CONTINUOUS)
        self.physics = Physics(self.map, self.device)
        self.lattice: Lattice = lattice(self.physics)
        self.velocities = velocity_table(self.device)  # (9, 2) px per step
        self._pushed = push_table(self.device)  # (9 velocities, 5 actions) -> velocity
        self._after = after_table(self.lattice, self.velocities)  # (P * 9,) velocity once the move is over
        self._to = self.lattice.to.flatten()
        self._piped = self.lattice.piped.flatten()
        self.canvas = Canvas(self.map, config.noise, self.device)
        self._tabled = self.discrete and config.noise == 0
        if self._tabled:
            self.canvas.tabulate(self.lattice.where, self.lattice.stands)
        self.distances = Distances(config, self.map, self.physics, self.lattice, self.transition)
        self._starts = torch.tensor(self.map.starts(config.start), dtype=torch.float32, device=self.device) * PX
        self.task = make(config, self.map, self.lattice, self._starts)
        if self.task is not None:
            self._starts = self.task.starts
        self._rng = torch.Generator(self.device).manual_seed(0)
        self._state = self._begin()
        self._last: Tensor | None = torch.ones(num_envs, dtype=torch.bool, device=self.device)

    # --- VecEnv ----------------------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode in every environment. The same seed gives the same run; None continues the generator."""
        if seed is not None:
            self._rng.manual_seed(seed)
        self._state = self._begin()
        yes = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        return self._row(yes, ~yes)

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """Step every environment. One whose last row was `last` begins a new episode and ignores its action.

        Raises:
            UserError: wrong shape, NaN, out of range or not one-hot (unless config.check is off).
        """
        if self.config.check:
            self.spec.action.check(action, self.num_envs)
        before, state = self._state, self.transition(self._state, action)
        first = self._last if self._last is not None else torch.zeros_like(state.clock, dtype=torch.bool)
        if self._last is not None:
            fresh = self._fresh(self.num_envs).replace(task=state.task)
            state = choose(first, fresh, state)
            if self.task is not None:
                state = self.task.renew(state, first, self._rng)
        self._state = state
        late = state.clock >= self.config.episode_length
        if self.task is None:
            return self._row(first, late)
        terminal = self.task.terminal(state)
        return self._row(first, late | terminal, self.task.reward(before, state).masked_fill(first, 0), terminal)

    def close(self) -> None:
        """Nothing to close."""

    def _row(self, first: Tensor, last: Tensor, reward: Tensor | None = None, terminal: Tensor | None = None) -> Step:
        self._last = last if bool(last.any()) else None
        reward = torch.zeros(self.num_envs, device=self.device) if reward is None else reward
        terminal = torch.zeros_like(last) if terminal is None else terminal
        return Step({"image": self.draw(self._state)}, reward, first, last, terminal)

    # --- ground truth

    def state(self) -> BoxState:
        """The state now."""
        return self._state

    def set_state(self, state: BoxState) -> None:
        """Put the boxes somewhere; the next row continues from there. Without marks in `state` the old ones stay.

        Raises:
            UserError: another number of boxes than num_envs, a box in a wall, or the marks of another task.
        """
        if state.position.shape != (self.num_envs, 2):
            raise UserError(f"state holds positions {tuple(state.position.shape)}: must be ({self.num_envs}, 2)")
        state = state.to(self.device)
        free = self.physics.free(state.position)
        if not bool(free.all()):
            raise UserError(f"position {state.position[~free][0].tolist()} px lies in a wall: choose a free place")
        if state.task is None:
            state = state.replace(task=self._state.task)
        elif not same_shape(state.task, self._state.task):
            many = "no" if self.task is None else len(self.task.worth)
            raise UserError(
                f"state has {state.task.cells.shape[-1]} marked cells per box, task '{self.config.task}' has {many}: "
                "take the state from an environment with the same task, hazards and items"
            )
        self._state, self._last = state, None

    def transition(self, state: BoxState, action: Float[Tensor, "*B A"]) -> BoxState:
        """The state after one action: pure, for any leading shape, independent of the environment's own state."""
        position, velocity, _ = self._move(state, action)
        marks = state.task if self.task is None or state.task is None else self.task.after(state.task, position)
        return BoxState(position, velocity, state.clock + 1, self._drift(state.noise), marks)

    def draw(self, state: BoxState, out: Tensor | None = None) -> UInt8[Tensor, "*B 3 64 64"]:
        """Frames of any number of boxes: always new memory, unless `out` (same shape, contiguous) is given."""
        if self._tabled:
            frames = self.canvas.lookup(number(state.position), out)
        else:
            frames = self.canvas.paint(state.position, state.noise[..., :2], out)
        if self.task is None or state.task is None:
            return frames
        return self.canvas.mark(frames, state.position, state.task.cells, state.task.left, self.task.colours)

    def distance(self, state: BoxState, goal: BoxState) -> Float[Tensor, "*B"]:
        """Fewest actions from `state` to the place of `goal` (inf: no way); see `Distances`."""
        return self.distances.distance(state, goal)

    def reward(self, state: BoxState, next: BoxState) -> Float[Tensor, "*B"]:
        """What the step from `state` to `next` earns; 0 without a task, and for boxes without marks."""
        return next.clock.float() * 0 if self.task is None else self.task.reward(state, next)

    def best_return(self, state: BoxState | None = None) -> Float[Tensor, "B"] | None:
        """The largest undiscounted return from `state` (None: the current one) to the end of the episode.

        None where it is unknown: without a task, with continuous actions or with momentum.
        """
        if self.task is None or not self.discrete or self.config.momentum:
            return None
        return best_return(self.task, self._state if state is None else state, self.config.episode_length)

    # --- more ground truth

    def places(self) -> BoxState:
        """Every place where a box can rest, once, at velocity 0."""
        return self.at(self.distances.place_positions)

    def index(self, state: BoxState) -> Int[Tensor, "*B"]:
        """The number in `places` of each box's (nearest) place; -1 where there is none."""
        return self.distances.index(state)

    def table(self) -> Float[Tensor, "C C"]:
        """Fewest actions between all places: entry (i, j) leads from i to j."""
        return self.distances.table()

    def at(self, position: Num[Tensor, "*B 2"]) -> BoxState:
        """Boxes at rest at these positions (px), clocks and noise at 0."""
        return at_rest(position.to(self.device, torch.float32))

    def cell(self, column: int, row: int) -> BoxState:
        """One box at rest in a cell of the 16 x 16 frame.

        Raises:
            UserError: the cell lies outside, is a wall, or is a place where nobody can rest.
        """
        return self.at(torch.tensor([self.map.resting(column, row)]) * float(PX))

    def displacement(self, a: BoxState, b: BoxState) -> Float[Tensor, "*B"]:
        """Distance in the image between the box of two states: Euclidean px."""
        return (a.position - b.position).norm(dim=-1)

    def teleported(self, state: BoxState, action: Float[Tensor, "*B A"], next: BoxState) -> Bool[Tensor, "*B"]:
        """Did this transition use a pipe? (`next` is only checked for its shape: the physics is deterministic.)"""
        assert next.position.shape == state.position.shape
        return self._move(state, action)[2]

    def moved(self, state: BoxState, next: BoxState) -> Bool[Tensor, "*B"]:
        """Is the box elsewhere?"""
        return (state.position != next.position).any(-1)

    # --- exact resume ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the future depends on, as tensors."""
        last = self._last if self._last is not None else torch.zeros_like(self._state.clock, dtype=torch.bool)
        return {**pack(self._state), "last": last.clone(), "rng": self._rng.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            UserError: saved with another num_envs, or with another task.
        """
        if saved["last"].shape != (self.num_envs,):
            raise UserError(
                f"saved state has num_envs = {len(saved['last'])}, this run {self.num_envs}: use the same num_envs"
            )
        state = unpack(saved, self.device)
        if not same_shape(state.task, self._state.task):
            raise UserError(f"saved state has other marks than task '{self.config.task}': use the same task options")
        self._state = state
        last = saved["last"].to(self.device).clone()
        self._last = last if bool(last.any()) else None
        self._rng.set_state(saved["rng"].cpu())

    # --- inside ----------------------------------------------------------------------------------------------------

    def _move(self, state: BoxState, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(position, velocity, used a pipe) after the action."""
        if not self.discrete:
            return self._glide(state, action)
        choice = action.argmax(-1)
        if self.config.momentum:
            swift = (state.velocity * (1 / SPEED)).round().long() + 1
            push = self._pushed[swift[..., 1] * 3 + swift[..., 0], choice]
        else:
            push = self._pushed[4, choice]  # from rest
        entry = number(state.position) * 9 + push
        position = self.lattice.where[self._to[entry]]
        velocity = self.velocities[self._after[entry]] if self.config.momentum else torch.zeros_like(position)
        return position, velocity, self._piped[entry]

    def _glide(self, state: BoxState, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        delta = action * SPEED
        if self.config.momentum:
            delta = (state.velocity + delta).clamp(-SPEED, SPEED)
        position, free, piped = self.physics.glide(state.position, delta)
        velocity = torch.where(free, delta, 0.0) if self.config.momentum else torch.zeros_like(delta)
        return position, velocity, piped

    def _drift(self, noise: Int[Tensor, "*B 3"]) -> Int[Tensor, "*B 3"]:
        """The noise window wanders by -2..2 px per axis; its seed makes that reproducible and is not visible."""
        if self.config.noise == 0:
            return noise
        seed = (noise[..., 2] * 1103515245 + 12345) & 0x7FFFFFFF
        wander = torch.stack(((seed >> 16) % 5 - 2, (seed >> 24) % 5 - 2), -1)
        return torch.cat(((noise[..., :2] + wander) % NOISE_PERIOD, seed[..., None]), -1)

    def _begin(self) -> BoxState:
        """Every box at the beginning of an episode, with its marks."""
        state = self._fresh(self.num_envs)
        return state if self.task is None else self.task.renew(state, state.clock == 0, self._rng)

    def _fresh(self, count: int) -> BoxState:
        """`count` boxes at the beginning of an episode."""
        draw = torch.randint(1 << 30, (count,), generator=self._rng, device=self.device)
        box = self.at(self._starts[draw % len(self._starts)])
        if self.config.noise > 0:
            seed = torch.randint(1 << 31, (count,), generator=self._rng, device=self.device)
            begin = torch.randint(NOISE_PERIOD, (count, 2), generator=self._rng, device=self.device)
            box = box.replace(noise=torch.cat((begin, seed[:, None]), -1))
        return box
