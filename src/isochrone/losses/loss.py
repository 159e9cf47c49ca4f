"""`@loss`: a loss declares what it may move (`updates`), what it reads, and where it comes from.

    @loss("h2z", updates={"h2z"}, reads={"z", "h"}, uses={"model.predict_z"}, source="Ha and Schmidhuber 2018")
    def h2z(model, rollout, settings): ...

`reads` are rollout fields; `uses` are modules and methods of the model that the function calls ("model.metric"), and
other parts of the learner ("actor"), which it receives as keyword arguments. `constant` are those of `reads` and
`uses` that it takes as they are: a target, a weight. All others get a gradient (`isochrone routes` checks both).

A model may have modes (`model.modes`, such as {"encoder_attached"}): `extra_updates` adds groups in a mode,
`fewer_updates` removes them, and wins; `fewer_constant` says what gets a gradient in a mode although it is `constant`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.protocols import Policy
from isochrone.core.registry import register
from isochrone.core.types import Rollout

IMAGINED = "imagined"
"""The rollout field of a policy's imagined rollout, computed once for all losses that read it."""


def policies(learner: Any) -> dict[str, Policy]:
    """The parts of the learner that choose actions."""
    return {name: part for name, part in learner.parts.items() if name != "model" and isinstance(part, Policy)}


@dataclass(frozen=True)
class LossConfig:
    """One loss of a training: its weight in the sum, when it is active, and its own settings."""

    kind: ClassVar[str] = "loss"
    shorthand: ClassVar[str] = "weight"
    weight: float = option(1.0, "factor of the loss in the sum; 0: not built", ge=0)
    start: float = option(0.0, "fraction of the training at which it becomes active", ge=0, lt=1)
    stop: float = option(1.0, "fraction of the training at which it ceases to be active", gt=0, le=1)
    settings: Any = option(None, "options of this loss")

    def check(self, path: str = "") -> None:
        """Cross-field rules. UserError."""
        if not math.isfinite(self.weight):
            raise UserError(f"{path}weight = {self.weight}: must be a finite number")
        if not self.start < self.stop:
            raise UserError(f"{path}start = {self.start}, {path}stop = {self.stop}: start must be less than stop")

    def for_name(self, name: str, path: str = "") -> Self:
        """This entry with the settings that the loss `name` has by default, where it has none yet. UserError."""
        kind = getattr(registry.get("loss", name), "settings", None)
        if self.settings is None:
            return self if kind is None else replace(self, settings=kind())
        if kind is None or not isinstance(self.settings, kind):
            reason = "this loss has no settings" if kind is None else f"must be a {kind.__name__}"
            raise UserError(f"{path}.settings = {self.settings!r}: {reason}")
        return self


@dataclass(frozen=True)
class Loss:
    """A declared loss. Call it with (model, rollout, settings, **parts) for a scalar."""

    name: str
    fn: Callable[..., Tensor]
    updates: frozenset[str]
    reads: frozenset[str]
    source: str
    settings: type | None = None
    extra_updates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fewer_updates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    undefined_in: Mapping[str, str] = field(default_factory=dict)  # mode -> why the loss is an identity there
    uses: frozenset[str] = frozenset()
    constant: frozenset[str] = frozenset()
    fewer_constant: Mapping[str, frozenset[str]] = field(default_factory=dict)
    probe_overrides: Mapping[str, Any] = field(default_factory=dict)  # settings that keep its gradient alive in probes
    nats: Callable[[Tensor, Rollout, Any], Tensor | None] | None = None  # its part of the negative ELBO per row

    def __call__(self, model: nn.Module, rollout: Rollout, settings: Any = None, **parts: nn.Module) -> Tensor:
        return self.fn(model, rollout, self._or_default(settings), **parts)

    @property
    def parts(self) -> frozenset[str]:
        """The parts of the learner beside the model that the loss uses."""
        return frozenset(path.split(".")[0] for path in self.uses) - {"model"}

    def probe_settings(self, settings: Any = None) -> Any:
        """Settings for gradient probes: without free nats and the like, under which a working loss has no gradient."""
        settings = self._or_default(settings)
        return replace(settings, **self.probe_overrides) if self.probe_overrides else settings

    def _or_default(self, settings: Any) -> Any:
        return self.settings() if settings is None and self.settings is not None else settings

    def declared(self, groups: Iterable[str], modes: Iterable[str] = ()) -> frozenset[str]:
        """Those of `groups`, all that there are, that this loss may move in the modes of a model."""
        more = frozenset().union(*(self.extra_updates.get(mode, ()) for mode in modes))
        less = frozenset().union(*(self.fewer_updates.get(mode, ()) for mode in modes))
        return ((self.updates | more) - less) & frozenset(groups)

    def constants(self, modes: Iterable[str] = ()) -> frozenset[str]:
        """What this loss reads or uses without passing it a gradient, in the modes of a model."""
        return self.constant - frozenset().union(*(self.fewer_constant.get(mode, ()) for mode in modes))

    def check(self, learner: Any, allow_dead: bool = False) -> None:
        """UserError for a learner that cannot feed this loss, or for a mode in which it is an identity."""
        model = learner.model
        kind = type(model).__name__.lower()
        missing = self.reads - model.provides - {IMAGINED}
        if IMAGINED in self.reads and "states" not in model.provides:
            missing |= {"states"}
        if missing:
            have = ", ".join(sorted(model.provides))
            raise UserError(
                f"loss '{self.name}' reads {sorted(missing)}, but model '{kind}' provides "
                f"{have}: choose another model or loss.{self.name}=0"
            )
        if IMAGINED in self.reads and not policies(learner):
            raise UserError(
                f"loss '{self.name}' reads what a policy imagines, but no part of the learner is a policy: choose an "
                f"agent that has one, or loss.{self.name}=0"
            )
        for path in sorted(self.uses):
            part, *names = path.split(".")
            if part not in learner.parts:
                raise UserError(
                    f"loss '{self.name}' uses the part '{part}', but the learner has only {', '.join(learner.parts)}: "
                    f"choose an agent that has it, or loss.{self.name}=0"
                )
            thing: Any = learner.parts[part]
            for name in names:
                thing = getattr(thing, name, None)
            if thing is None:
                raise UserError(
                    f"loss '{self.name}' uses {path}, which '{type(learner.parts[part]).__name__.lower()}' does not "
                    f"have: choose another {part} or loss.{self.name}=0"
                )
        for mode, why in self.undefined_in.items():
            if mode in model.modes and not allow_dead:
                raise UserError(
                    f"loss '{self.name}' is refused: {why}. "
                    f"Set loss.{self.name}=0 (or pass --allow-dead-losses to see it fail)"
                )


def loss(
    name: str,
    *,
    updates: set[str],
    reads: set[str],
    source: str,
    uses: set[str] | None = None,
    settings: type | None = None,
    extra_updates: Mapping[str, set[str]] | None = None,
    fewer_updates: Mapping[str, set[str]] | None = None,
    undefined_in: Mapping[str, str] | None = None,
    constant: set[str] | None = None,
    fewer_constant: Mapping[str, set[str]] | None = None,
    probe_overrides: Mapping[str, Any] | None = None,
    nats: Callable[[Tensor, Rollout, Any], Tensor | None] | None = None,
) -> Callable[[Callable[..., Tensor]], Loss]:
    """Declare a loss and register it.

    `nats(value, rollout, settings)` is the loss's part of the negative ELBO per row, from its value: what is weighted,
    scaled, cut at free nats or averaged over fewer rows is not. None where its settings leave the ELBO.
    """

    def declare(fn: Callable[..., Tensor]) -> Loss:
        declared = Loss(
            name,
            fn,
            frozenset(updates),
            frozenset(reads),
            source,
            settings,
            {k: frozenset(v) for k, v in (extra_updates or {}).items()},
            {k: frozenset(v) for k, v in (fewer_updates or {}).items()},
            dict(undefined_in or {}),
            frozenset(uses or ()),
            frozenset(constant or ()),
            {k: frozenset(v) for k, v in (fewer_constant or {}).items()},
            dict(probe_overrides or {}),
            nats,
        )
        object.__setattr__(declared, "__doc__", fn.__doc__)
        object.__setattr__(declared, "__qualname__", f"{fn.__module__}.{fn.__qualname__}")
        return register("loss", name)(declared)

    return declare
