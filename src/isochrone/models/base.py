"""What every world model shares: imagination by repeated steps, and the check that its groups are a partition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.core.types import Batch, Struct


class Model(nn.Module):
    """Base of the world models. A subclass gives `step`, `groups`, `provides`, `observe`, `start` and `update`."""

    provides: frozenset[str] = frozenset()
    modes: frozenset[str] = frozenset()
    pixels = True  # must there be an image?
    draws = False  # do `update` and `imagine` take an `rng` to draw latents with?
    framewise: str | None = None  # a field that one frame's `encode` gives; `observe` takes it from `batch.cached`

    def step(self, state: Any, action: Float[Tensor, "... A"]) -> Any:
        """One imagined step, for any leading shape."""
        raise NotImplementedError

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups that partition every parameter."""
        raise NotImplementedError

    def prime(self, batches: Iterable[Batch]) -> None:
        """Called once, before the first step: what is measured on recordings, and not learned, is set here.

        The batches are drawn as they are asked for, so a model that measures nothing pays nothing.
        """

    def after_step(self) -> None:
        """Called after each optimiser step; slow branches move here."""

    def imagine(self, state: Any, actions: Float[Tensor, "B N H A"]) -> Any:
        """Roll each candidate through the model: State[B] -> State[B, N, H], the states *after* each action."""
        b, n, horizon, size = actions.shape
        now = state.map(lambda x: x.unsqueeze(1).expand(b, n, *x.shape[1:]).reshape(b * n, *x.shape[1:]))
        moves = actions.reshape(b * n, horizon, size)
        states = []
        for k in range(horizon):
            now = self.step(now, moves[:, k])
            states.append(now)
        rolled: Struct = type(now).stack(states, dim=1)  # (B*N, H, ...)
        return rolled.map(lambda x: x.reshape(b, n, *x.shape[1:]))

    def wants(self, needs: Iterable[str]) -> frozenset[str]:
        """The requested rollout fields, or an error that names what this model cannot fill."""
        wanted = frozenset(needs)
        missing = wanted - self.provides
        if missing:
            have = ", ".join(sorted(self.provides))
            raise UserError(f"model '{type(self).__name__.lower()}' cannot fill {sorted(missing)}; it provides {have}")
        return wanted
