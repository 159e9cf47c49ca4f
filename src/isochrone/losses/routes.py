"""Gradient routes: a loss declares which weights it may move, and autograd checks it. Imports nothing of isochrone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GradientReport:
    """What was declared and what was measured. `moved[loss][group]` is the largest gradient norm over all probes."""

    declared: dict[str, frozenset[str]]
    moved: dict[str, dict[str, float]]

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
        return out

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
    for probe in probes:
        for name, (fn, _) in losses.items():
            for group, size in group_norms(fn(probe), parameters).items():
                moved[name][group] = max(moved[name][group], size)
    return GradientReport(declared, moved)


def gradients(loss: Tensor, groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, list[Tensor | None]]:
    """The gradient of `loss` for every parameter, by group; None where no path leads there."""
    flat = [p for ps in groups.values() for p in ps]
    if not loss.requires_grad:
        return {name: [None] * len(ps) for name, ps in groups.items()}
    grads = iter(torch.autograd.grad(loss, flat, allow_unused=True, retain_graph=True))
    return {name: [next(grads) for _ in ps] for name, ps in groups.items()}


def group_norms(loss: Tensor, groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, float]:
    """Norm of the gradient of `loss` in each group; NaN counts as movement (inf)."""
    out = {}
    for name, grads in gradients(loss, groups).items():
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
