"""The training objective: a weighted sum of losses on one shared rollout, so that one backward serves them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.config import validate
from isochrone.core.errors import UserError
from isochrone.core.gradient import no_parameter_grad, stop_gradient
from isochrone.core.types import Batch, Rollout
from isochrone.losses.loss import IMAGINED, Loss, LossConfig, policies


class TrainingObjective(nn.Module):
    """Learner and losses; `losses` maps names to their configuration, and the sum is taken in its order.

    A loss of weight 0 is not built. Outside [start, stop), fractions of the training, a loss is not computed: where
    losses do not share weights, one part can be trained after another. `allow_dead_losses` builds losses that are
    undefined for this model, to show that they fail.
    """

    def __init__(self, learner: Any, losses: Mapping[str, LossConfig], allow_dead_losses: bool = False) -> None:
        super().__init__()
        self.learner = learner  # training.learner.Learner, which lies above this package
        configs = {name: validate(c.for_name(name, f"loss.{name}"), f"loss.{name}.") for name, c in losses.items()}
        self.configs: dict[str, LossConfig] = {name: c for name, c in configs.items() if c.weight > 0}
        if not self.configs:
            raise UserError("no loss has a weight above 0: set at least one loss.NAME")
        self.losses: dict[str, Loss] = {name: registry.get("loss", name) for name in self.configs}
        for loss in self.losses.values():
            loss.check(learner, allow_dead_losses)
        self._check_gaps()
        self.active, self.progress = frozenset(self.losses), 0.0

    @property
    def model(self) -> Any:
        """The world model."""
        return self.learner.model

    def _check_gaps(self) -> None:
        for edge in sorted({0.0, *(x for c in self.configs.values() for x in (c.start, c.stop) if x < 1)}):
            if not any(c.start <= edge < c.stop for c in self.configs.values()):
                raise UserError(f"no loss is active at {edge:.0%} of the training: change loss.NAME.start or stop")

    @property
    def needs(self) -> frozenset[str]:
        """The rollout fields that the losses read."""
        return frozenset[str]().union(*(loss.reads for loss in self.losses.values()))

    def set_progress(self, progress: float) -> bool:
        """Choose the active losses for this fraction (0..1) of the training; True when that changes them."""
        done = progress >= 1
        active = frozenset(n for n, c in self.configs.items() if c.start <= progress < c.stop or (done and c.stop == 1))
        changed, self.active, self.progress = active != self.active, active, progress
        return changed

    def group_spans(self) -> dict[str, tuple[float, float]]:
        """When some loss moves each group of weights: {group: (start, stop)}; only groups that a loss moves."""
        spans: dict[str, tuple[float, float]] = {}
        groups = self.learner.groups()
        for name, loss in self.losses.items():
            config = self.configs[name]
            for group in loss.declared(groups, self.model.modes):
                first, last = spans.get(group, (config.start, config.stop))
                spans[group] = (min(first, config.start), max(last, config.stop))
        return spans

    def values(
        self, batch: Batch, rng: torch.Generator, names: Iterable[str] | None = None, probe: bool = False
    ) -> dict[str, Tensor]:
        """The named losses (default: all) on one shared rollout, unweighted; with `probe`, in their probe settings."""
        return self._values(batch, rng, names, probe)[0]

    def _values(
        self, batch: Batch, rng: torch.Generator, names: Iterable[str] | None, probe: bool = False
    ) -> tuple[dict[str, Tensor], Rollout]:
        losses = {n: loss for n, loss in self.losses.items() if names is None or n in names}
        needs = frozenset[str]().union(*(loss.reads for loss in losses.values()))
        rollout = self.observe(batch, needs, rng)
        settings = {name: self.configs[name].settings for name in losses}
        if probe:
            settings = {name: loss.probe_settings(settings[name]) for name, loss in losses.items()}
        parts = self.learner.parts
        values = {
            name: loss(self.model, rollout, settings[name], **{part: parts[part] for part in loss.parts})
            for name, loss in losses.items()
        }
        return values, rollout

    def observe(self, batch: Batch, needs: frozenset[str], rng: torch.Generator) -> Rollout:
        """The model's rollout of `batch`, and `imagined` if needed: what the learner's policy does in the model.

        That starts from every row's state, stopped, and runs for the policy's `horizon` with the model's weights
        frozen: Imagined with start (B*T), states and actions (B*T, H). It is computed once for all losses that read it.
        """
        if IMAGINED not in needs:
            return replace(self.model.observe(batch, needs, rng), progress=self.progress)
        rollout = self.model.observe(batch, needs - {IMAGINED} | {"states"}, rng)
        start = stop_gradient(rollout.states.map(lambda x: x.flatten(0, 1)), "imagination does not train the filter")
        (policy,) = policies(self.learner).values()
        with no_parameter_grad(self.model):
            imagined = self.model.imagine_policy(start, policy, policy.horizon, rng)
        return replace(rollout, fields={**rollout.fields, IMAGINED: imagined}, progress=self.progress)

    def forward(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the active losses, and numbers for the log (no gradient, on the device).

        The log has each loss's value as it enters the sum, and the ELBO: see `elbo`.
        """
        values, rollout = self._values(batch, rng, self.active)
        total = torch.stack([self.configs[name].weight * value for name, value in values.items()]).sum()
        logged = {name: stop_gradient(value, "for the log") for name, value in values.items()}
        metrics = {f"loss/{name}": value for name, value in logged.items()}
        return total, metrics | self.elbo(logged, rollout) | {"loss": stop_gradient(total, "for the log")}

    def elbo(self, values: Mapping[str, Tensor], rollout: Rollout) -> dict[str, Tensor]:
        """{'nats/NAME': ..., 'elbo': minus their sum}: the ELBO per row without constants, and each loss's part of it.

        A loss's value is not always its part: `kl` weighs two directions and has free nats, `reward` has a scale and no
        value on first rows. Empty without a `kl`; no 'elbo' where a loss is configured to something else.
        """
        if "kl" not in values:
            return {}
        parts = {n: loss.nats for n in values if (loss := self.losses[n]).nats is not None}
        with torch.no_grad():
            nats = {n: nats(values[n], rollout, self.configs[n].settings) for n, nats in parts.items() if nats}
        known = {f"nats/{n}": value for n, value in nats.items() if value is not None}
        return known | ({"elbo": -torch.stack(list(known.values())).sum()} if len(known) == len(nats) else {})
