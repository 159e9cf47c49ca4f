"""Structural interfaces between the packages, one per capability; no inheritance needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor, nn

from isochrone.core.types import ActionSpec, Batch, Imagined, Plan, Rollout, Spec, Step


class State(Protocol):
    """A model's latent state, of any leading shape: a Struct with z, h and a feature vector."""

    @property
    def h(self) -> Float[Tensor, "... D"]: ...
    @property
    def z(self) -> Float[Tensor, "... Z"]: ...
    def feat(self) -> Float[Tensor, "... F"]:
        """The input of heads that read a state."""
        ...

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any: ...
    def __getitem__(self, index: Any) -> Any: ...


@runtime_checkable
class VecEnv(Protocol):
    """B environments stepped together; a finished row resets itself at the next step, which then has `first`."""

    spec: Spec
    num_envs: int

    def reset(self, seed: int) -> Step: ...
    def step(self, action: Float[Tensor, "B A"]) -> Step: ...
    def close(self) -> None: ...


@runtime_checkable
class EnvState(Protocol):
    """The true state of B environments (or of any leading shape): a Struct with the visible position of the agent."""

    position: Float[Tensor, "*B 2"]  # pixels, (x, y)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any: ...
    def __getitem__(self, index: Any) -> Any: ...


@runtime_checkable
class HasVelocity(Protocol):
    """An EnvState that also has a velocity, in pixels per step."""

    velocity: Float[Tensor, "*B 2"]


@runtime_checkable
class GroundTruth(VecEnv, Protocol):
    """An environment that knows its true states: `evaluate` and `plan` then measure a model against them.

    `step` must equal `transition` followed by `draw`. Both are pure and accept any leading shape, as all methods that
    take states do. `places` are the C states of rest between which distances are known and plans are made; `table`
    holds the fewest actions between them (entry (i, j) from i to j; inf where there is no way), `index` the number of
    a state's place (-1: none), `distance` the fewest actions from one state to the position of another.
    `displacement` is how far the agent visibly moves between two states, in pixels; `teleported` is true where a
    transition jumps (through a portal, say), so that pixels and actions disagree. For measuring only: no model or loss
    may read any of it.
    """

    def state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...
    def transition(self, state: Any, action: Float[Tensor, "*B A"]) -> Any: ...
    def draw(self, state: Any) -> UInt8[Tensor, "*B C Y X"]: ...
    def displacement(self, a: Any, b: Any) -> Float[Tensor, "*B"]: ...
    def distance(self, state: Any, goal: Any) -> Float[Tensor, "*B"]: ...
    def places(self) -> Any: ...
    def table(self) -> Float[Tensor, "C C"]: ...
    def index(self, state: Any) -> Int[Tensor, "*B"]: ...
    def teleported(self, state: Any, action: Float[Tensor, "*B A"], next: Any) -> Bool[Tensor, "*B"]: ...


@runtime_checkable
class HasCells(Protocol):
    """An environment whose places have names: `cell(column, row)` is the state of one environment at rest there.

    Raises:
        UserError: nobody can rest there.
    """

    def cell(self, column: int, row: int) -> Any: ...


@runtime_checkable
class HasBestReturn(Protocol):
    """An environment with rewards that can compute the best possible return.

    `best_return` is the largest undiscounted return from now to the end of each episode; None where it is unknown.
    """

    def best_return(self) -> Float[Tensor, "B"] | None: ...


@runtime_checkable
class TwoFutures(VecEnv, Protocol):
    """An environment whose episodes come in two kinds, sides -1 and 1, that look the same up to row `turn`.

    `side` is the side of each environment's current episode; `frames` what an episode of each side shows on its first T
    rows (None: all).
    """

    @property
    def turn(self) -> int: ...
    @property
    def episode_length(self) -> int: ...

    def side(self) -> Int[Tensor, "B"]: ...
    def frames(self, side: Int[Tensor, "B"], steps: int | None = None) -> UInt8[Tensor, "B T C Y X"]: ...


@runtime_checkable
class HasLinearSystem(VecEnv, Protocol):
    """An environment that is a linear-Gaussian system, so that the likelihood of its observations is known.

    `system` has the matrices of s_t = a s_{t-1} + N(0, q), o_t = h s_t + N(0, r) with s_0 = 0, and
    `simulate(count, length, rng)` -> (states (B, T, S), observations (B, T, D)).
    """

    @property
    def system(self) -> Any: ...
    @property
    def episode_length(self) -> int: ...


@runtime_checkable
class WorldModel(Protocol):
    """An nn.Module that filters, observes and imagines. It knows neither its losses nor its use.

    All sampling is done by `rng`; without one, stochastic models take the mode. `models.base.Model` implements what is
    not specific to a model.
    """

    action: ActionSpec
    provides: frozenset[str]
    """Rollout fields that `observe` can fill."""
    modes: frozenset[str]
    """Settings that change which groups a loss moves; losses refer to them."""
    is_stochastic: bool
    """Do `update`, `step` and `imagine` sample latents with their `rng`?"""
    needs_image: bool
    """Does the environment have to show an image?"""
    cacheable_field: str | None
    """A rollout field that `encode_image` computes from one frame; `observe` takes it from `batch.cached` if there."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups of parameters: a partition of all that are trained."""
        ...

    def start(self, batch: int) -> Any:
        """State[B] before the first frame; every row is `fresh`."""
        ...

    def update(
        self,
        state: Any,
        action: Float[Tensor, "B A"],
        obs: Mapping[str, Tensor],
        rng: torch.Generator | None = None,
    ) -> Any:
        """State[B] after filtering in one real frame; `action` led to it and is ignored on fresh rows."""
        ...

    def observe(self, batch: Batch, needs: Iterable[str], rng: torch.Generator | None = None) -> Rollout:
        """The Rollout of a batch, with at least the fields `needs`. UserError for a field that is not provided."""
        ...

    def step(self, state: Any, action: Float[Tensor, "B A"], rng: torch.Generator | None = None) -> Any:
        """The imagined state after `action`."""
        ...

    def imagine(
        self,
        state: Any,
        actions: Float[Tensor, "B N H A"],
        rng: torch.Generator | None = None,
        shared_noise: bool = False,
    ) -> Any:
        """State[B] -> State[B, N, H], the states *after* each action; noise independent per row, or shared by all."""
        ...

    def imagine_policy(
        self,
        state: Any,
        policy: Callable[[Any, torch.Generator | None], Float[Tensor, "B A"]],
        horizon: int,
        rng: torch.Generator | None = None,
    ) -> Imagined:
        """Roll `policy(state, rng) -> action` through the model from State[B]; nothing is stopped."""
        ...

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Set what is measured on data and not learned; called once, before the first optimiser step."""
        ...

    def after_step(self) -> None:
        """Called after each optimiser step; EMA copies are updated here."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A model whose z is a function of one frame."""

    def encode_image(self, image: Tensor) -> Float[Tensor, "... Z"]:
        """image (..., C, Y, X), uint8 or 0..1 -> z."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A model that predicts the image of a state."""

    def decode(self, state: Any) -> Float[Tensor, "... C Y X"]:
        """The expected image, about 0..1 (not clamped)."""
        ...


@runtime_checkable
class PredictsReward(Protocol):
    """A model that predicts rewards."""

    def rewards(self, state: Any) -> Float[Tensor, "..."]:
        """Expected reward of arriving in a state."""
        ...


@runtime_checkable
class PredictsContinue(Protocol):
    """A model that predicts whether episodes end."""

    def continues(self, state: Any) -> Float[Tensor, "..."]:
        """Probability that the episode continues after a state."""
        ...


@runtime_checkable
class ObservesInStages(Protocol):
    """A model that observes in three methods, encode, filter and heads, and says where its gradient must not pass."""

    exact_gradient: bool
    remembers: bool
    step_ignores: frozenset[str]
    step_stops: frozenset[str]
    encode: Any
    filter: Any
    heads: Any
    step: Any
    imagine: Any
    observe: Any
    parameters: Any
    double: Any
    to: Any


@runtime_checkable
class HasDistance(Protocol):
    """A model with distances between states."""

    def distance(self, a: Any, b: Any, space: str = "p") -> Float[Tensor, "..."]:
        """From a to b, broadcast: space 'p' in actions, 'z' Euclidean in z, 'mixed' both."""
        ...


@runtime_checkable
class HasPose(Protocol):
    """A model that has a pose p of each z, in which distances count actions."""

    def pose_of(self, z: Float[Tensor, "... Z"]) -> Float[Tensor, "... P"]:
        """p = M(z)."""
        ...


@runtime_checkable
class HasOdometry(Protocol):
    """A model that predicts the step of the pose."""

    def odometry(self, p: Tensor, h: Tensor, action: Tensor) -> Float[Tensor, "... P"]:
        """The predicted p' - p after `action`."""
        ...


@runtime_checkable
class HasDisagreement(Protocol):
    """A model that compares its two distances."""

    def disagreement(self, a: Any, b: Any) -> Float[Tensor, "..."]:
        """Large where two states look different and are near in actions."""
        ...


Imagine = Callable[[Any, Float[Tensor, "B N H A"]], Any]
"""State[B], actions[B,N,H,A] -> State[B,N,H]: all that a planner knows of a model."""


class Cost(Protocol):
    """states[B,N,H], actions[B,N,H,A], goal[B] (None where the cost needs none) -> cost[B,N], lower is better."""

    def __call__(self, states: Any, actions: Float[Tensor, "B N H A"], goal: Any) -> Float[Tensor, "B N"]: ...


@runtime_checkable
class Planner(Protocol):
    """No env, no model class, no hidden state. Batched over B; every action it returns is legal.

    `config` has the planner's `name` and its `horizon`.
    """

    config: Any
    action: ActionSpec

    def plan(
        self,
        imagine: Imagine,
        state: Any,
        cost: Callable[[Any, Tensor], Tensor],
        warm: Plan | None,
        rng: torch.Generator,
    ) -> Plan: ...


@runtime_checkable
class Policy(Protocol):
    """A part of the learner that chooses actions from states, so that it can be rolled out in the model.

    `horizon`: steps of a rollout during training.
    """

    horizon: int

    def __call__(self, state: Any, rng: torch.Generator | None = None) -> Float[Tensor, "*B A"]:
        """One action for each state."""
        ...


@runtime_checkable
class Agent(Protocol):
    """Chooses actions in B environments. Everything it remembers between calls is in `carry`.

    `start` begins an episode in every row; `goal` holds observations (B, ...) of where to go, for agents that need one,
    and all sampling is done by `rng`. `restart` begins a new episode in the rows where `rows` is true, with new goals
    there if `goal` (B, ...) is given. `act` filters one observation per row and returns (action, carry, info); `mode`
    is 'eval', or 'train' where the agent should explore.

    Keys of info, all optional: 'evaluations' (imagined steps per row in this call: a number, or (B)); from agents that
    plan, also 'plan' (B,H,A), 'cost' (B), 'replanned' (bool) and 'trace' of the planner.
    """

    @property
    def name(self) -> str: ...
    @property
    def needs_goal(self) -> bool: ...

    def start(
        self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: torch.Generator | None = None
    ) -> Any: ...
    def restart(self, carry: Any, rows: Bool[Tensor, "B"], goal: Mapping[str, Tensor] | None = None) -> Any: ...
    def act(
        self, obs: Mapping[str, Tensor], carry: Any, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], Any, dict[str, Any]]: ...


@runtime_checkable
class PlansReturns(Protocol):
    """An agent with plans. `return_discount` is the discount per step of the return that they maximise.

    The 'cost' in its info is then minus the planned return. None: its plans have another objective.
    """

    @property
    def return_discount(self) -> float | None: ...


@runtime_checkable
class AgentComponent(Agent, Protocol):
    """An agent that a recipe chooses by name: a class registered under kind 'agent', with a Config.

    `modules` makes the parts that the agent adds to the learner, by name (an actor, a critic); {} where there is
    nothing to train. `build` makes the agent from its Config and the learner, whose parts hold the trained modules.
    """

    @classmethod
    def build(cls, config: Any, learner: Any) -> Agent: ...
    @staticmethod
    def modules(config: Any, model: Any, spec: Spec) -> dict[str, nn.Module]: ...


Measure = Callable[..., Mapping[str, Any]]
"""(model, episodes, truth) -> {name: number or array}. Never draws, never writes."""


@runtime_checkable
class Format(Protocol):
    """How a recording is stored: a file or a folder. A class registered under kind 'format', made without arguments.

    `detect` says from the name, or cheaply from what is there, whether `path` is a recording of this format; it is also
    asked for a path that does not exist yet, to choose the format of a new recording. `lengths` are the rows of each
    episode; None where they are unknown without reading the rows (a recording is then read once, into memory). `read`
    yields every `data.episode.Episode` in the same order, one at a time; `data.source` checks them, for every format
    alike. `write` stores a recording, whole or not at all, and returns the number of episodes.

    Raises:
        UserError: (all but `detect`) the recording is missing or damaged, or cannot be written; names the path.
    """

    def detect(self, path: Path) -> bool: ...
    def spec(self, path: Path) -> Spec: ...
    def lengths(self, path: Path) -> Int64[np.ndarray, "E"] | None: ...
    def read(self, path: Path) -> Iterator[Any]: ...
    def write(self, path: Path, episodes: Iterable[Any], spec: Spec) -> int: ...


class Sink(Protocol):
    """Where numbers go. Values may be tensors on a device; a sink reads them only when its clock fires."""

    def write(self, step: int, values: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


Figure = Callable[..., Any]
"""(arrays) -> matplotlib figure. Never computes a measure."""
