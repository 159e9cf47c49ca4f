"""Is every loss alive? Value and gradient norm per loss and group, and a sentence for each that is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from isochrone.core.types import Batch
from isochrone.losses.objective import TrainingObjective
from isochrone.losses.routes import Motion, gradients, names_of

ZERO = 1e-9  # summed squares of float32 rounding stay below this at the scale of one action
COPY = 0.999


@dataclass(frozen=True)
class LossProbe:
    """A loss's value on each probe, and its gradient norm per group (largest over the probes)."""

    values: list[float]
    norms: dict[str, float]


@dataclass(frozen=True)
class Liveness:
    """The probe of every loss, one sentence per fault, and the weights that no loss moves though one declares their
    group."""

    probes: dict[str, LossProbe]
    faults: list[str]
    unmoved: list[str]

    def table(self) -> str:
        """Plain text, one row per loss: value, then gradient norm of each group that has one."""
        rows = []
        for name, probe in self.probes.items():
            moved = "  ".join(f"{g} {n:.2g}" for g, n in probe.norms.items() if n > 0)
            rows.append(f"{name:<24}{sum(probe.values) / len(probe.values):>11.4g}   {moved}")
        return "\n".join(rows)


def _flat(grads: dict[str, list[Tensor | None]], like: dict[str, list[Tensor]]) -> Tensor:
    parts = [
        torch.zeros_like(p).flatten() if g is None else g.flatten()
        for name, gs in grads.items()
        for g, p in zip(gs, like[name], strict=True)
    ]
    return torch.cat(parts)


def liveness(total: TrainingObjective, probes: Sequence[Batch], seed: int = 0) -> Liveness:
    """Measure every loss on real batches (at least two). Random numbers in the losses repeat from `seed` on every call.

    Measured in the losses' probe settings: a KL below its free nats is not dead.
    """
    groups = {name: list(ps) for name, ps in total.learner.groups().items()}
    values: dict[str, list[float]] = {name: [] for name in total.losses}
    norms = {name: dict.fromkeys(groups, 0.0) for name in total.losses}
    vectors: dict[str, Tensor] = {}
    motion = Motion()
    for i, batch in enumerate(probes):
        losses = total.values(batch, torch.Generator().manual_seed(seed + i), probe=True)
        for name, loss in losses.items():
            grads = gradients(loss, groups)
            values[name].append(loss.item())
            motion.add(grads, groups)
            for g, parts in grads.items():
                size = sum(float(x.square().sum()) for x in parts if x is not None) ** 0.5
                norms[name][g] = max(norms[name][g], size)
            if i == 0:
                vectors[name] = _flat(grads, groups)
    measured = {name: LossProbe(values[name], norms[name]) for name in total.losses}
    faults = [f for name, p in measured.items() for f in _faults(name, p)] + _copies(vectors)
    return Liveness(measured, faults, motion.missing(_expected_to_move(total, groups), names_of(total.learner)))


def _expected_to_move(total: TrainingObjective, groups: dict[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """The groups that a loss declares, without those behind a layer that is all zero at first, as some heads are."""
    used = {group for loss in total.losses.values() for group in loss.declared(groups, total.model.modes)}
    return {g: ps for g, ps in groups.items() if g in used and all(p.dim() < 2 or bool(p.any()) for p in ps)}


def _faults(name: str, probe: LossProbe) -> list[str]:
    biggest = max(probe.norms.values(), default=0.0)
    if not all(torch.isfinite(torch.tensor([*probe.values, biggest]))):
        return [f"'{name}' is not finite: {probe.values}"]
    if all(abs(v) <= ZERO for v in probe.values):
        why = "an identity" if biggest <= 1e-3 and biggest > 0 else "identically zero or already satisfied"
        return [f"'{name}' is {why}: value {max(map(abs, probe.values)):.1e} on every probe, whatever the weights"]
    if biggest == 0:
        same = max(probe.values) - min(probe.values) == 0
        return [f"'{name}' is {'a constant' if same else 'out of reach of every weight'}: it has no gradient"]
    return []


def _copies(vectors: dict[str, Tensor]) -> list[str]:
    sizes = {name: float(v.norm()) for name, v in vectors.items()}
    out = []
    for a, b in combinations(vectors, 2):
        if sizes[a] > 0 and sizes[b] > 0:
            cos = float(vectors[a] @ vectors[b]) / (sizes[a] * sizes[b])
            if cos > COPY:
                out.append(f"'{a}' and '{b}' are copies: their gradients agree to a cosine of {cos:.5f}; keep one")
    return out
