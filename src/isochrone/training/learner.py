"""What one run trains, saves and loads: named parts, the world model first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from isochrone.losses.routes import check_partition


@runtime_checkable
class Grouped(Protocol):
    """A part that divides its weights into named groups."""

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]: ...


@runtime_checkable
class Updated(Protocol):
    """A part that does something after each optimiser step, such as moving an EMA copy."""

    def after_step(self) -> None: ...


class Learner(nn.Module):
    """Named modules that are trained together: `parts["model"]` is the world model; an actor or a critic may follow.

    The groups of weights are those of all parts: each trainable weight is in exactly one. A part without `groups()` is
    one group with the part's name. `after_step()` calls that of each part that has one, in order. Its state dict, and
    so a checkpoint, holds every part under its name ("model.encoder...", "actor...").

    ValueError: no part "model", two groups of one name, or groups that are no partition of the trainable weights.
    """

    model: Any  # the world model

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if "model" not in parts:
            raise ValueError(f"a learner needs a part 'model', the world model; got {', '.join(parts) or 'no part'}")
        for name in ("model", *(name for name in parts if name != "model")):
            self.add_module(name, parts[name])
        check_partition(self.groups(), self)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules by name, the world model first."""
        return dict(self.named_children())

    def part_groups(self, name: str) -> dict[str, list[nn.Parameter]]:
        """The groups of the part `name`, in its own order; empty when nothing in it is trained."""
        part = self.parts[name]
        if isinstance(part, Grouped):
            return {group: list(weights) for group, weights in part.groups().items()}
        weights = [p for p in part.parameters() if p.requires_grad]
        return {name: weights} if weights else {}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The groups of all parts."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name in self.parts:
            for group, weights in self.part_groups(name).items():
                if group in groups:
                    raise ValueError(f"two parts of the learner have a group '{group}': rename the one in '{name}'")
                groups[group] = weights
        return groups

    def after_step(self) -> None:
        """Call `after_step()` of each part that has it."""
        for part in self.parts.values():
            if isinstance(part, Updated):
                part.after_step()
