"""`@term`: a loss declares what it may move (`updates`), what it reads, and where it comes from.

    @loss("z2h", updates={"z2h"}, reads={"z"}, source="seeds/002, table row z2h")
    def z2h(model, roll, cfg): ...

`also` adds groups in a mode of the model, e.g. {"encoder_attached": {"encoder"}}; `minus` takes them away, and wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Rollout


@dataclass(frozen=True)
class Loss:
    """A declared loss. Call it with (model, rollout, settings) for a scalar."""

    name: str
    fn: Callable[[Any, Rollout, Any], Tensor]
    updates: frozenset[str]
    reads: frozenset[str]
    source: str
    settings: type | None = None
    also: Mapping[str, frozenset[str]] = field(default_factory=dict)
    minus: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)  # mode -> why the term is meaningless there
    wakes: Mapping[str, Any] = field(default_factory=dict)  # settings under which it never sleeps

    def __call__(self, model: nn.Module, roll: Rollout, cfg: Any = None) -> Tensor:
        return self.fn(model, roll, cfg if cfg is not None or self.settings is None else self.settings())

    def awake(self, cfg: Any = None) -> Any:
        """Settings for proofs: without free nats and the like, so that a loss that sleeps is told from a dead one."""
        cfg = cfg if cfg is not None or self.settings is None else self.settings()
        return replace(cfg, **self.wakes) if self.wakes else cfg

    def declared(self, model: Any) -> frozenset[str]:
        """The groups this term may move in the model's present modes (groups without parameters left out)."""
        more = frozenset().union(*(self.also.get(mode, ()) for mode in model.modes))
        less = frozenset().union(*(self.minus.get(mode, ()) for mode in model.modes))
        return ((self.updates | more) - less) & frozenset(model.groups())

    def check(self, model: Any, force: bool = False) -> None:
        """Refuse a model that cannot feed this term, or a mode that makes it an identity."""
        missing = self.reads - model.provides
        if missing:
            have = ", ".join(sorted(model.provides))
            raise UserError(
                f"term '{self.name}' reads {sorted(missing)}, but model '{type(model).__name__.lower()}' provides "
                f"{have}: choose another model or loss.{self.name}=0"
            )
        for mode, why in self.refuses.items():
            if mode in model.modes and not force:
                raise UserError(
                    f"term '{self.name}' is refused: {why}. "
                    f"Set loss.{self.name}=0 (or pass --allow-dead-losses to see it fail)"
                )


def loss(
    name: str,
    *,
    updates: set[str],
    reads: set[str],
    source: str,
    settings: type | None = None,
    also: Mapping[str, set[str]] | None = None,
    minus: Mapping[str, set[str]] | None = None,
    refuses: Mapping[str, str] | None = None,
    wakes: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Tensor]], Loss]:
    """Declare a loss and register it."""

    def declare(fn: Callable[..., Tensor]) -> Loss:
        made = Loss(
            name,
            fn,
            frozenset(updates),
            frozenset(reads),
            source,
            settings,
            {k: frozenset(v) for k, v in (also or {}).items()},
            {k: frozenset(v) for k, v in (minus or {}).items()},
            dict(refuses or {}),
            dict(wakes or {}),
        )
        object.__setattr__(made, "__doc__", fn.__doc__)
        object.__setattr__(made, "__qualname__", f"{fn.__module__}.{fn.__qualname__}")
        return register("loss", name)(made)

    return declare
