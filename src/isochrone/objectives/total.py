"""The weighted sum: one module whose `forward` observes and applies every term, so that one backward serves all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.route import stop
from isochrone.core.types import Batch
from isochrone.objectives.term import Term


class Total(nn.Module):
    """Model and terms. `weights[name] = 0` means that the term is not built.

    `settings[name]` overrides a term's settings; `force` builds terms that refuse this model (to show that they fail).
    """

    def __init__(
        self, model: Any, weights: Mapping[str, float], settings: Mapping[str, Any] | None = None, force: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: float(w) for name, w in weights.items() if w != 0}
        if not self.weights:
            raise UserError("no loss has a weight above 0: set at least one loss.NAME")
        negative = [n for n, w in self.weights.items() if w < 0]
        if negative:
            raise UserError(f"loss.{negative[0]} = {self.weights[negative[0]]}: weights must be at least 0")
        self.terms: dict[str, Term] = {name: registry.get("term", name) for name in self.weights}
        for t in self.terms.values():
            t.check(model, force)
        given = settings or {}
        self.settings = {n: given.get(n) or (t.settings() if t.settings else None) for n, t in self.terms.items()}
        self.needs = frozenset().union(*(t.reads for t in self.terms.values()))

    def losses(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Every term on one shared rollout, unweighted."""
        roll = self.model.observe(batch, self.needs, rng)
        return {name: t(self.model, roll, self.settings[name]) for name, t in self.terms.items()}

    def forward(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term's value for the log (detached, still on the device)."""
        losses = self.losses(batch, rng)
        total = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        metrics = {f"loss/{name}": stop(value, "for the log") for name, value in losses.items()}
        return total, metrics | {"loss": stop(total, "for the log")}
