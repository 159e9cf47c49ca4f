"""Gradient routes: a loss declares which weights it may move, and autograd checks it. Imports nothing of isochrone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GradientReport:
    """What was declared and what was measured.

    `moved[loss][group]` is the largest gradient norm over all probes. `unmoved` names the weights, and the inputs of
    weights, that no loss moves although one declares their group; `leaks` are faults found by other checks.
    """

    declared: dict[str, frozenset[str]]
    moved: dict[str, dict[str, float]]
    unmoved: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()

    def violations(self) -> list[str]:
        """One sentence per violation; empty where all declarations are right."""
        out = []
        for loss, groups in self.moved.items():
            want, have = self.declared[loss], {g for g, size in groups.items() if size > 0}
            for g in sorted(have - want):
                out.append(f"loss '{loss}' moves '{g}' (gradient {groups[g]:.3g}) but does not declare it")
            for g in sorted(g for g in want if groups[g] == float("inf")):
                out.append(f"loss '{loss}' gives '{g}' a gradient that is not finite")
            for g in sorted(want - have):
                out.append(f"loss '{loss}' declares '{g}' but no probe gave it a gradient")
        out += [f"no loss moves {weight}, though a loss declares its group" for weight in self.unmoved]
        return [*out, *self.leaks]

    def table(self) -> str:
        """Markdown: rows are losses, columns groups; ● declared and measured, · neither, ✗ a violation."""
        columns = list(next(iter(self.moved.values()), {}))
        lines = ["| loss | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        for loss, groups in self.moved.items():
            cells = []
            for g in columns:
                want, have = g in self.declared[loss], groups[g] > 0
                cells.append("●" if want and have else "✗" if want != have else "·")
            lines.append(f"| {loss} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def check_routes(
    groups: Mapping[str, Iterable[nn.Parameter]],
    losses: Mapping[str, tuple[Callable[[Any], Tensor], Iterable[str]]],
    probes: Sequence[Any],
    module: nn.Module | None = None,
) -> GradientReport:
    """Measure the gradient of every loss with respect to every group.

    `losses[name] = (function of a probe -> scalar, names of the groups it may move)`. A declared group must receive a
    non-zero gradient on at least one probe (a hinge may have none on some), every other none or exactly zero on all.
    Groups must be disjoint and, when `module` is given, cover its trainable parameters; else ValueError. Faults are
    returned, not raised: `assert not check_routes(...).violations()` is the test.
    """
    parameters = {name: list(ps) for name, ps in groups.items()}
    check_partition(parameters, module)
    declared = {name: frozenset(updates) for name, (_, updates) in losses.items()}
    for name, expected in declared.items():
        if expected - parameters.keys():
            raise ValueError(
                f"loss '{name}' declares unknown groups {sorted(expected - parameters.keys())}; "
                f"the groups are {sorted(parameters)}"
            )
    moved = {name: dict.fromkeys(parameters, 0.0) for name in losses}
    motion = Motion()
    for probe in probes:
        for name, (fn, _) in losses.items():
            found = gradients(fn(probe), parameters)
            motion.add(found, parameters)
            for group, size in norms_of(found).items():
                moved[name][group] = max(moved[name][group], size)
    used = {
        group: ws for group, ws in parameters.items() if any(moved[n][group] for n, d in declared.items() if group in d)
    }
    return GradientReport(declared, moved, tuple(motion.missing(used, names_of(module))))


def names_of(module: nn.Module | None) -> dict[int, str]:
    """The name of each parameter of a module, by its id."""
    return {} if module is None else {id(p): name for name, p in module.named_parameters()}


class Motion:
    """What the gradients of all losses together move: each weight, and each input of a matrix (its second dimension).

    A group moves if any of its weights does; a module in it whose input is cut off shows only here. Channels of a
    convolution do not count: a ReLU silences neighbours among them by accident.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, Tensor] = {}  # id of a weight -> (inputs) of a matrix, else ()

    def add(self, found: Mapping[str, Sequence[Tensor | None]], groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Add the gradients of one loss, as from `gradients`."""
        for group, grads in found.items():
            for weight, grad in zip(groups[group], grads, strict=True):
                if grad is not None:
                    size = grad.abs().sum(0) if grad.dim() == 2 else grad.abs().sum()
                    self.sizes[id(weight)] = self.sizes.get(id(weight), 0) + size

    def missing(self, groups: Mapping[str, Sequence[nn.Parameter]], names: Mapping[int, str]) -> list[str]:
        """The weights of these groups that nothing moved, and how many inputs of the others."""
        out = []
        for group, weights in groups.items():
            for number, weight in enumerate(weights):
                name = f"'{names.get(id(weight), f'{group}[{number}]')}'"
                size = self.sizes.get(id(weight))
                if size is None or not bool(size.any()):
                    out.append(name)
                elif size.dim() and (begin_end := _cut(size == 0)):
                    out.append(f"inputs {begin_end[0]} to {begin_end[1]} of the {len(size)} of {name}")
        return out


def _cut(dead: Tensor) -> tuple[int, int] | None:
    """The first and last dead input where they are neighbours, as those of a part that was cut off are.

    Single ones are dead on small probes for other reasons: pixels that never change, units that a ReLU silences.
    """
    where = dead.nonzero()[:, 0].tolist()
    return (where[0], where[-1]) if len(where) > 1 and where[-1] - where[0] + 1 == len(where) else None


def gradients(loss: Tensor, groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, list[Tensor | None]]:
    """The gradient of `loss` for every parameter, by group; None where no path leads there."""
    flat = [p for ps in groups.values() for p in ps]
    if not loss.requires_grad:
        return {name: [None] * len(ps) for name, ps in groups.items()}
    grads = iter(torch.autograd.grad(loss, flat, allow_unused=True, retain_graph=True))
    return {name: [next(grads) for _ in ps] for name, ps in groups.items()}


def norms_of(found: Mapping[str, Sequence[Tensor | None]]) -> dict[str, float]:
    """Norm of the gradient in each group, as from `gradients`; NaN counts as movement (inf)."""
    out = {}
    for name, grads in found.items():
        square = sum(float(g.double().square().sum()) for g in grads if g is not None)
        out[name] = square**0.5 if square == square else float("inf")
    return out


def check_partition(groups: Mapping[str, Sequence[nn.Parameter]], module: nn.Module | None) -> None:
    """ValueError unless every group is trainable, no weight is in two, and those of `module` are all in one."""
    owner: dict[int, str] = {}
    for name, params in groups.items():
        for p in params:
            if not p.requires_grad:
                raise ValueError(f"group '{name}' holds a weight that takes no gradient: an EMA copy is in no group")
            if id(p) in owner:
                raise ValueError(f"groups must be disjoint: a parameter is in '{owner[id(p)]}' and in '{name}'")
            owner[id(p)] = name
    if module is not None:
        ungrouped = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in owner]
        if ungrouped:
            raise ValueError(f"groups must cover the module; in none: {', '.join(ungrouped[:5])}")
