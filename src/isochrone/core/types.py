"""Frozen dataclasses of tensors, and the one time convention.

Row t holds `obs[t]`, the `action[t]` taken there, and the `reward[t]` received on *arriving* at t (0 on a first row)::

        a0      a1      a2            a[t] leads o[t] -> o[t+1] unless last[t]
       /  \\    /  \\    /  \\           r[t] belongs to the arrival at o[t]
     o0    \\ o1    \\ o2    \\ o3       first = [1,0,0,0]   last = [0,0,0,1]

The action of a `last` row is recorded but leads nowhere. Dimension letters: B batch, T time, N candidates, H horizon,
A action, Z/D/P sizes of z/h/p, C,Y,X image. Order is always (B, T, ...) and (B, N, H, ...).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isochrone.core.errors import UserError


def tree_map(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `fn` to every tensor in a nest of Structs, dicts and plain values."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Struct):
        return value.map(fn)
    if isinstance(value, Mapping):
        return {k: tree_map(fn, v) for k, v in cast(Mapping[str, Any], value).items()}
    return value


def _merge(fn: Callable[[list[Tensor]], Tensor], values: Sequence[Any]) -> Any:
    head = values[0]
    if isinstance(head, Tensor):
        return fn(list(values))
    if isinstance(head, Struct):
        names = [f.name for f in dataclasses.fields(head)]
        return head.replace(**{name: _merge(fn, [getattr(v, name) for v in values]) for name in names})
    if isinstance(head, Mapping):
        return {k: _merge(fn, [v[k] for v in values]) for k in cast(Mapping[str, Any], head)}
    return head


def choose(rows: Bool[Tensor, "B"], yes: Any, no: Any) -> Any:
    """Row-wise choice between two nests of equal make: `yes` where `rows`, else `no`."""

    def where(pair: list[Tensor]) -> Tensor:
        return torch.where(rows.reshape(-1, *[1] * (pair[0].ndim - 1)), pair[0], pair[1])

    return _merge(where, [yes, no])


@dataclass(frozen=True)
class Struct:
    """Base of every frozen dataclass of tensors: index, move and stack all its tensors at once."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """A copy with `fn` applied to every tensor."""
        return self.replace(**{f.name: tree_map(fn, getattr(self, f.name)) for f in dataclasses.fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """A copy on `device`."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def __getitem__(self, index: Any) -> Self:
        return self.map(lambda x: x[index])

    @classmethod
    def stack(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Stack equal structs along a new dimension."""
        return _merge(lambda xs: torch.stack(xs, dim), items)

    @classmethod
    def cat(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Concatenate equal structs along an existing dimension."""
        return _merge(lambda xs: torch.cat(xs, dim), items)


@dataclass(frozen=True)
class ActionSpec:
    """What an action is. Discrete actions are one-hot float (A); continuous ones lie in [-1, 1].

    `noop` is the index of the action that does nothing (for continuous actions any int says that the zero vector does
    nothing; None: there is no such action). `inverse[i]` undoes i where nothing is in the way (continuous: -a).
    """

    kind: Literal["discrete", "continuous"]
    size: int
    names: tuple[str, ...] = ()
    noop: int | None = None
    inverse: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.discrete:
            return
        every = range(self.size)
        if self.noop is not None and self.noop not in every:
            raise UserError(f"ActionSpec: noop {self.noop} is not one of {self.size} actions")
        back = self.inverse
        if back is not None and (sorted(back) != list(every) or any(back[back[i]] != i for i in every)):
            raise UserError(f"ActionSpec: inverse {back} must undo itself: inverse[inverse[i]] = i for all {self.size}")

    @property
    def discrete(self) -> bool:
        return self.kind == "discrete"

    def one_hot(self, index: Tensor) -> Float[Tensor, "... A"]:
        """Indices (...) int64 -> one-hot actions."""
        return torch.nn.functional.one_hot(index, self.size).float()

    def sample(self, shape: Sequence[int], rng: torch.Generator) -> Float[Tensor, "... A"]:
        """Uniform actions, drawn on the generator's device."""
        if self.discrete:
            return self.one_hot(torch.randint(self.size, tuple(shape), generator=rng, device=rng.device))
        return torch.rand(*shape, self.size, generator=rng, device=rng.device) * 2 - 1

    def project(self, action: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """The nearest legal action: one-hot of the largest entry, or a clamp to the box."""
        if self.discrete:
            return self.one_hot(action.argmax(-1)).to(action.dtype)
        return action.clamp(-1, 1)

    def contains(self, action: Tensor) -> bool:
        """Is every action legal (finite, right size, one-hot or inside the box)?"""
        if action.shape[-1] != self.size or not bool(torch.isfinite(action).all()):
            return False
        if self.discrete:
            return bool(((action == 0) | (action == 1)).all() and (action.sum(-1) == 1).all())
        return bool((action.abs() <= 1).all())

    def check(self, action: Tensor, num_envs: int) -> None:
        """UserError unless there is one legal action (A) for each of `num_envs` environments."""
        if tuple(action.shape) != (num_envs, self.size):
            raise UserError(f"action has shape {tuple(action.shape)}: must be ({num_envs}, {self.size})")
        if not self.contains(action):
            bad = cast(Any, next(row for row in action if not self.contains(row[None]))).tolist()
            legal = f"one-hot over {', '.join(self.names) or self.size}" if self.discrete else "numbers in [-1, 1]"
            raise UserError(f"action {bad} is not legal: must be {legal}")

    def idle(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Float[Tensor, "... A"]:
        """No-op actions; action 0 where the space has none."""
        if self.discrete:
            return self.one_hot(torch.full(tuple(shape), self.noop or 0, dtype=torch.long, device=device))
        return torch.zeros(*shape, self.size, device=device)

    def inverted(self, action: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """The action that undoes this one in free space."""
        if not self.discrete:
            return -action
        if self.inverse is None:
            raise UserError("this action space declares no inverse actions; set ActionSpec.inverse")
        return action[..., list(self.inverse)]  # inverse is an involution, so gathering equals scattering


def check_num_envs(num_envs: int) -> int:
    """`num_envs`; UserError unless it is at least 1."""
    if num_envs < 1:
        raise UserError(f"num_envs = {num_envs}: must be at least 1")
    return num_envs


@dataclass(frozen=True)
class Spec:
    """What an environment shows and takes. `obs` maps a name to one observation's shape; 'image' is uint8 (C,Y,X)."""

    obs: Mapping[str, tuple[int, ...]]
    action: ActionSpec

    @property
    def image(self) -> tuple[int, int, int]:
        if "image" not in self.obs:
            raise UserError(f"this environment shows {sorted(self.obs)} but no 'image'; choose one with pixels")
        c, y, x = self.obs["image"]
        return c, y, x


@dataclass(frozen=True)
class Step(Struct):
    """One row of B environments. (`*B`: stacking or indexing rows keeps the type.)"""

    obs: dict[str, Tensor]  # (B, ...)
    reward: Float[Tensor, "*B"]
    first: Bool[Tensor, "*B"]
    last: Bool[Tensor, "*B"]
    terminal: Bool[Tensor, "*B"]


class Pairs(NamedTuple):
    """Neighbouring rows; `valid` is False where an episode ends between them."""

    now: Batch
    next: Batch
    valid: Bool[Tensor, "B T-1"]


@dataclass(frozen=True)
class Batch(Struct):
    """B windows of T rows; a window may cross episodes. Images stay uint8.

    `cached` holds precomputed encoder outputs (B, T, ...), keyed by rollout field, while the encoder is frozen.
    """

    obs: dict[str, Tensor]  # (B, T, ...)
    action: Float[Tensor, "*B T A"]
    reward: Float[Tensor, "*B T"]
    first: Bool[Tensor, "*B T"]
    last: Bool[Tensor, "*B T"]
    terminal: Bool[Tensor, "*B T"]
    cached: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # (B, T, ...)

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape[0], self.first.shape[1]

    def pairs(self) -> Pairs:
        """(t, t+1, valid)."""
        return Pairs(self[:, :-1], self[:, 1:], self.connected(1))

    def connected(self, k: int) -> Bool[Tensor, "B {self.shape[1]-k}"]:
        """Row t and row t+k lie in one episode, with every row between."""
        joint = ~(self.last[:, :-1] | self.first[:, 1:])  # (B, T-1)
        return joint.unfold(1, k, 1).all(-1)


@dataclass(frozen=True)
class Rollout:
    """What a model made of a batch: named tensors, filled only as far as `needs` asked.

    A field that was not requested raises AttributeError. `rng` serves losses that sample (pairs, augmentations);
    `progress` is the fraction of the training that is done, 0..1.
    """

    batch: Batch
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rng: torch.Generator | None = None
    progress: float = 1.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.fields[name]
        except KeyError:
            have = ", ".join(sorted(self.fields)) or "nothing"
            raise AttributeError(f"rollout holds {have}, not '{name}': add it to the loss's `reads`") from None


@dataclass(frozen=True)
class Imagined(Struct):
    """A policy rolled out in a world model: actions[:, k] leads to states[:, k], from `start` where k = 0."""

    start: Any  # State[B]
    states: Any  # State[B, H]
    actions: Float[Tensor, "*B H A"]


@dataclass(frozen=True)
class Plan(Struct):
    """A planner's result. `trace` holds arrays for figures (e.g. cost per iteration), never needed to act."""

    actions: Float[Tensor, "*B H A"]
    cost: Float[Tensor, "*B"]
    trace: dict[str, Any] = field(default_factory=dict[str, Any])
