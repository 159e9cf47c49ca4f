"""Recordings with the true states beside them. For evaluation only: no loss may read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.protocols import GroundTruth, HasVelocity
from isochrone.core.types import Batch, Spec, Struct

Act = Callable[[Mapping[str, Tensor], torch.Generator], Tensor]
"""(obs[B], rng) -> action (B, A)."""


@dataclass(frozen=True)
class Transitions(Struct):
    """Every probe action from every resting place: N = places x actions one-step transitions of the true physics."""

    start: Any  # State[N]
    action: Float[Tensor, "N A"]
    next: Any  # State[N]
    place: Int64[Tensor, " N"]  # index of the start among the places
    kind: Int64[Tensor, " N"]  # index of the action among the probe actions
    teleported: Bool[Tensor, " N"]
    moved: Bool[Tensor, " N"]  # the box is elsewhere afterwards

    @property
    def ordinary(self) -> Bool[Tensor, " N"]:
        """Moved, and not by a pipe."""
        return self.moved & ~self.teleported


@dataclass(frozen=True)
class RecordedTruth:
    """The true states of a recording, and the environment's own answers about distance."""

    env: Any
    state: Any  # State[B, T]
    position: Float[Tensor, "B T 2"]  # pixels
    velocity: Float[Tensor, "B T 2"]  # pixels per step; zeros where the environment has none
    teleported: Bool[Tensor, "B T-1"]
    moved: Bool[Tensor, "B T-1"]
    valid: Bool[Tensor, "B T-1"]  # both rows in one episode

    @property
    def spec(self) -> Spec:
        return self.env.spec

    @cached_property
    def places(self) -> Any:
        """State[C]: every free place where the box can rest."""
        places = self.env.places()
        if len(places.position) < 3:
            raise UserError(f"this map has {len(places.position)} free places; metrics need at least 3")
        return places

    @cached_property
    def images(self) -> UInt8[Tensor, "N C Y X"]:
        """The image of every place."""
        return self.env.draw(self.places)

    @cached_property
    def table(self) -> Float[np.ndarray, "C C"]:
        """Fewest actions from place i to place j; inf where j cannot be reached."""
        return np.asarray(self.env.table().cpu(), float)

    @cached_property
    def goals(self) -> Bool[np.ndarray, "C C"]:
        """Ordered pairs of different places whose goal can be reached."""
        return np.isfinite(self.table) & ~np.eye(len(self.table), dtype=bool)

    @cached_property
    def displacement(self) -> Float[np.ndarray, "C C"]:
        """Visible displacement between places, in pixels."""
        return self.displacements(self.places, self.places)

    def displacements(self, a: Any, b: Any) -> Float[np.ndarray, "M N"]:
        """Visible displacement from each state of a[M] to each of b[N], in pixels."""
        m, n = len(a.position), len(b.position)
        rows, cols = torch.arange(m).repeat_interleave(n), torch.arange(n).repeat(m)
        return np.asarray(self.env.displacement(a[rows], b[cols]).cpu(), float).reshape(m, n)

    @cached_property
    def actions(self) -> Float[Tensor, "K A"]:
        """All discrete actions; for continuous spaces no action, and full speed along each axis."""
        return probe_actions(self.spec)

    @cached_property
    def transitions(self) -> Transitions:
        """One step of every probe action from every place."""
        count, kinds = len(self.places.position), len(self.actions)
        place = torch.arange(count).repeat_interleave(kinds)  # (N,)
        kind = torch.arange(kinds).repeat(count)  # (N,)
        start, action = self.places[place], self.actions[kind]
        after, teleported, moved = true_step(self.env, start, action)
        return Transitions(start, action, after, place, kind, teleported, moved)

    @property
    def pipes(self) -> Transitions:
        """The transitions through a pipe (none on maps without pipes)."""
        return self.transitions[self.transitions.teleported]


def probe_actions(spec: Spec) -> Float[Tensor, "K A"]:
    """A finite set of actions that spans the space."""
    if spec.action.discrete:
        return torch.eye(spec.action.size)
    eye = torch.eye(spec.action.size)
    return torch.cat([torch.zeros(1, spec.action.size), eye, -eye])


def true_step(env: Any, state: Any, action: Float[Tensor, "N A"]) -> tuple[Any, Bool[Tensor, " N"], Bool[Tensor, " N"]]:
    """(next state, teleported, moved): one step of the true physics."""
    after = env.transition(state, action)
    moved = (after.position - state.position).abs().amax(-1) > 1e-6
    return after, env.teleported(state, action, after).bool(), moved


def random_actions(spec: Spec) -> Act:
    """Uniform random actions."""
    return lambda obs, rng: spec.action.sample((len(next(iter(obs.values()))),), rng)


@torch.no_grad()
def record(env: Any, act: Act, length: int, rng: torch.Generator) -> tuple[Batch, RecordedTruth]:
    """Play `length` rows in every environment of `env`; returns what a model may see, and the true states.

    Args:
        env: B environments with ground truth.
        act: chooses the actions, e.g. `random_act(env.spec)`.
        length: rows per environment, at least 2.

    Raises:
        UserError: an environment without ground truth, or a length below 2.
    """
    if not isinstance(env, GroundTruth):
        raise UserError(f"env '{type(env).__name__}' has no ground truth to evaluate with (see core/protocols.py)")
    if length < 2:
        raise UserError(f"a recording of length {length} has no transition; use at least 2")
    step = env.reset(int(torch.randint(2**31 - 1, (1,), generator=rng, device=rng.device)))
    steps, states, actions = [], [], []
    for t in range(length):
        action = act(step.obs, rng).to(torch.float32)
        steps.append(step)
        states.append(env.state())
        actions.append(action)
        if t + 1 < length:
            step = env.step(action)
    rows = type(step).stack(steps, dim=1)
    state = type(states[0]).stack(states, dim=1)  # State[B, T]
    batch = Batch(rows.obs, torch.stack(actions, 1), rows.reward, rows.first, rows.last, rows.terminal)
    return batch, _truth(env, batch, state)


def _truth(env: Any, batch: Batch, state: Any) -> RecordedTruth:
    b, t = batch.shape
    valid = batch.connected(1)

    def flat(x: Any) -> Any:
        return x.map(lambda v: v.reshape(b * (t - 1), *v.shape[2:]))

    before, after = flat(state[:, :-1]), flat(state[:, 1:])
    action = batch.action[:, :-1].reshape(b * (t - 1), -1)
    teleported = env.teleported(before, action, after).bool().reshape(b, t - 1) & valid
    position = state.position.float()
    velocity = state.velocity.float() if isinstance(state, HasVelocity) else torch.zeros_like(position)
    moved = ((position[:, 1:] - position[:, :-1]).abs().amax(-1) > 1e-6) & valid
    return RecordedTruth(env, state, position, velocity, teleported, moved, valid)
