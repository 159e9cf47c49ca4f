"""The weighted sum: one module whose `forward` observes and applies every term, so that one backward serves all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Batch
from isochrone.losses.loss import Loss


class TrainingObjective(nn.Module):
    """Model and terms. `weights[name] = 0` means that the term is not built.

    `settings[name]` overrides a term's settings; `force` builds terms that refuse this model (to show that they fail).
    `after[name]` and `until[name]` are shares of the training (default 0 and 1): outside them a term rests and costs
    nothing. Where detached losses do not feel each other, learning one part after the other is learning on firm ground.
    """

    def __init__(
        self,
        model: Any,
        weights: Mapping[str, float],
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        after: Mapping[str, float] | None = None,
        until: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: float(w) for name, w in weights.items() if w != 0}
        if not self.weights:
            raise UserError("no loss has a weight above 0: set at least one loss.NAME")
        negative = [n for n, w in self.weights.items() if w < 0]
        if negative:
            raise UserError(f"loss.{negative[0]} = {self.weights[negative[0]]}: weights must be at least 0")
        self.terms: dict[str, Loss] = {name: registry.get("loss", name) for name in self.weights}
        for t in self.terms.values():
            t.check(model, force)
        given = settings or {}
        self.settings = {n: given.get(n) or (t.settings() if t.settings else None) for n, t in self.terms.items()}
        self.needs = frozenset[str]().union(*(t.reads for t in self.terms.values()))
        self.spans = {n: ((after or {}).get(n, 0.0), (until or {}).get(n, 1.0)) for n in self.terms}
        self._check_spans()
        self.active, self.share = frozenset(self.terms), 0.0

    def _check_spans(self) -> None:
        for name, (start, end) in self.spans.items():
            if not 0 <= start < end <= 1:
                raise UserError(
                    f"after.{name} = {start}, until.{name} = {end}: shares of the training, 0 <= after < until <= 1"
                )
        edges = sorted({0.0, *(x for span in self.spans.values() for x in span if x < 1)})
        for edge in edges:
            if not any(start <= edge < end for start, end in self.spans.values()):
                raise UserError(f"no loss is active at {edge:.0%} of the training: mend after.NAME or until.NAME")

    def at(self, share: float) -> bool:
        """Wake and rest terms for this share of the training (0..1); True when the set of active terms changed."""
        awake = frozenset(n for n, (start, end) in self.spans.items() if start <= share < end or (share >= end == 1))
        changed, self.active, self.share = awake != self.active, awake, share
        return changed

    def group_spans(self) -> dict[str, tuple[float, float]]:
        """When some term moves each group of weights: {group: (after, until)}; groups that nothing moves left out."""
        spans: dict[str, tuple[float, float]] = {}
        for name, t in self.terms.items():
            start, end = self.spans[name]
            for group in t.declared(self.model):
                first, last = spans.get(group, (start, end))
                spans[group] = (min(first, start), max(last, end))
        return spans

    def losses(
        self, batch: Batch, rng: torch.Generator, names: Iterable[str] | None = None, awake: bool = False
    ) -> dict[str, Tensor]:
        """The named terms (default: all of them) on one shared rollout, unweighted; `awake` without their free nats."""
        chosen = {n: t for n, t in self.terms.items() if names is None or n in names}
        needs = frozenset[str]().union(*(t.reads for t in chosen.values()))
        roll = replace(self.model.observe(batch, needs, rng), progress=self.share)
        told = {name: t.awake(self.settings[name]) if awake else self.settings[name] for name, t in chosen.items()}
        return {name: t(self.model, roll, told[name]) for name, t in chosen.items()}

    def forward(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the active terms, and each one's value for the log (detached, still on the device)."""
        losses = self.losses(batch, rng, self.active)
        total = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        metrics = {f"loss/{name}": stop_gradient(value, "for the log") for name, value in losses.items()}
        return total, metrics | {"loss": stop_gradient(total, "for the log")}
