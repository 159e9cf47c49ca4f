"""The seams of the house, as structural types. Whoever fits, fits: nothing needs to inherit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from isochrone.core.types import ActionSpec, Batch, Plan, Rollout, Spec, Step


class State(Protocol):
    """A model's latent state: any Struct with a feature vector. (`feat` is all that a head or cost must know.)"""

    def feat(self) -> Float[Tensor, "... F"]: ...
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
class WhiteBox(Protocol):
    """An environment with ground truth. `step` is `transition` + `draw`, so physics exists once. For measuring only."""

    spec: Spec

    def state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...
    def transition(self, state: Any, action: Float[Tensor, "B A"]) -> Any: ...
    def draw(self, state: Any) -> UInt8[Tensor, "B C Y X"]: ...
    def distance(self, state: Any, goal: Any) -> Float[Tensor, "B"]: ...


@runtime_checkable
class WorldModel(Protocol):
    """An nn.Module that filters, observes and imagines."""

    provides: frozenset[str]
    modes: frozenset[str]

    def start(self, batch: int) -> Any: ...
    def update(self, state: Any, action: Float[Tensor, "B A"], obs: Mapping[str, Tensor]) -> Any: ...
    def observe(self, batch: Batch, needs: Iterable[str], rng: torch.Generator | None = None) -> Rollout: ...
    def step(self, state: Any, action: Float[Tensor, "B A"]) -> Any: ...
    def imagine(self, state: Any, actions: Float[Tensor, "B N H A"]) -> Any: ...
    def groups(self) -> dict[str, list[nn.Parameter]]: ...
    def prime(self, batches: Iterable[Batch]) -> None: ...
    def after_step(self) -> None: ...


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


class Sink(Protocol):
    """Where numbers go. Values may be tensors on a device; a sink reads them only when its clock fires."""

    def write(self, step: int, values: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


Figure = Callable[..., Any]
"""(arrays) -> matplotlib figure. Never computes a measure."""

Folder = Path
