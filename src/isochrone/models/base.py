"""What every world model shares: observe as encode, filter and heads, and imagination by repeated steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.core.types import Batch, Imagined, Rollout, Struct


class Model(nn.Module):
    """Base of the world models (protocol `WorldModel`).

    A subclass implements `start`, `update`, `step`, `groups`, `provides`, and `encode`, `filter` and `heads`, of which
    `observe` is composed.
    """

    provides: frozenset[str] = frozenset()
    modes: frozenset[str] = frozenset()
    needs_image = True
    """Does the environment have to show an image?"""
    is_stochastic = False
    """Do `update`, `step` and `imagine` sample latents with their `rng`?"""
    exact_gradient = True
    """Are its gradients those of its values? Not where samples are passed straight through."""
    remembers = True
    """Does a row of the filter depend on the rows before it?"""
    step_ignores: frozenset[str] = frozenset()
    """Parts of the state that nothing else in the next state depends on."""
    step_stops: frozenset[str] = frozenset()
    """Parts of the next state that pass no gradient to some inputs of `step`, on purpose."""
    cacheable_field: str | None = None
    """A rollout field that `encode_image` computes from one frame; `encode` takes it from `batch.cached` if there."""

    # --- what a subclass implements

    def start(self, batch: int) -> Any:
        """State[B] before the first frame."""
        raise NotImplementedError

    def update(
        self,
        state: Any,
        action: Float[Tensor, "B A"],
        obs: Mapping[str, Tensor],
        rng: torch.Generator | None = None,
    ) -> Any:
        """State[B] after filtering in one real frame; `action` led to it and is ignored on fresh rows."""
        raise NotImplementedError

    def step(self, state: Any, action: Float[Tensor, "... A"], rng: torch.Generator | None = None) -> Any:
        """The imagined state after `action`, for any leading shape. Without `rng` nothing is sampled."""
        raise NotImplementedError

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups of parameters: a partition of all that are trained."""
        raise NotImplementedError

    def encode(self, batch: Batch, needs: frozenset[str], rng: torch.Generator | None) -> dict[str, Any]:
        """Rollout fields that single frames determine: embeddings, targets."""
        raise NotImplementedError

    def filter(
        self, batch: Batch, fields: Mapping[str, Any], needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """Rollout fields of the recurrence over time, from those of `encode`."""
        raise NotImplementedError

    def heads(
        self, batch: Batch, fields: Mapping[str, Any], needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """Rollout fields that are read off those of `encode` and `filter`."""
        raise NotImplementedError

    # --- what it may override

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Set what is measured on data and not learned; called once, before the first optimiser step.

        `batches` is lazy: a model that measures nothing reads nothing.
        """

    def after_step(self) -> None:
        """Called after each optimiser step; EMA copies are updated here."""

    # --- what it inherits

    def observe(self, batch: Batch, needs: Iterable[str], rng: torch.Generator | None = None) -> Rollout:
        """The Rollout of a batch, with at least the fields `needs`; all sampling is done by `rng`.

        `encode`, then, unless that was all that is needed, `filter` and `heads`. Raises UserError for unknown fields.
        """
        needs = self.check_needs(needs)
        fields = self.encode(batch, needs, rng)
        if not needs <= fields.keys():
            fields |= self.filter(batch, fields, needs, rng)
            fields |= self.heads(batch, fields, needs, rng)
        return Rollout(batch, fields, rng)

    def imagine(
        self,
        state: Any,
        actions: Float[Tensor, "B N H A"],
        rng: torch.Generator | None = None,
        shared_noise: bool = False,
    ) -> Any:
        """State[B] -> State[B, N, H]: N candidate action sequences for each state, the states *after* each action.

        Noise is independent in every row and candidate. With `shared_noise` the rows of the batch share the noise of a
        candidate, so that a row's plan does not depend on the other rows; models that sample implement it.
        """
        if shared_noise and rng is not None and self.is_stochastic:
            raise NotImplementedError(f"{type(self).__name__}.imagine does not implement shared_noise")
        b, n, horizon, size = actions.shape
        state = state.map(lambda x: x.unsqueeze(1).expand(b, n, *x.shape[1:]).reshape(b * n, *x.shape[1:]))
        flat = actions.reshape(b * n, horizon, size)
        states = []
        for k in range(horizon):
            state = self.step(state, flat[:, k], rng)
            states.append(state)
        stacked: Struct = type(state).stack(states, dim=1)  # (B*N, H, ...)
        return stacked.map(lambda x: x.reshape(b, n, *x.shape[1:]))

    def imagine_policy(
        self,
        state: Any,
        policy: Callable[[Any, torch.Generator | None], Float[Tensor, "B A"]],
        horizon: int,
        rng: torch.Generator | None = None,
    ) -> Imagined:
        """Roll `policy(state, rng) -> action` through the model for `horizon` steps from State[B].

        Nothing is stopped: gradients reach the start, the policy and the model's parameters unless the caller freezes
        them.
        """
        states, actions = [], []
        now = state
        for _ in range(horizon):
            action = policy(now, rng)
            now = self.step(now, action, rng)
            states.append(now)
            actions.append(action)
        return Imagined(state, type(now).stack(states, dim=1), torch.stack(actions, 1))

    def check_needs(self, needs: Iterable[str]) -> frozenset[str]:
        """`needs` as a set. UserError if the model does not provide one of them."""
        requested = frozenset(needs)
        missing = requested - self.provides
        if missing:
            available = ", ".join(sorted(self.provides))
            raise UserError(
                f"model '{type(self).__name__.lower()}' cannot fill {sorted(missing)}; it provides {available}"
            )
        return requested
