"""An RSSM that masks its input and adds an EMA branch, as outside code that overrides `encode` only (as HRSSM does)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tinymodel import SMALL, fits, generator, make_env, windows
from torch import Tensor

from isochrone.core import registry
from isochrone.core.gradient import EMA
from isochrone.core.types import Batch, Spec
from isochrone.losses.loss import LossConfig, loss
from isochrone.losses.objective import TrainingObjective
from isochrone.losses.routes import check_routes
from isochrone.models.statespace import RSSM, RssmConfig
from isochrone.training.learner import Learner


class MaskedRSSM(RSSM):
    """The encoder reads half of the 8 x 8 patches; an average of it reads whole frames, as the target of a loss."""

    def __init__(self, config: RssmConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.encoder_ema = EMA(self.encoder, tau=0.05)
        self.provides = self.provides | {"embed_ema"}

    def encode(self, batch: Batch, needs: frozenset[str], rng: torch.Generator | None) -> dict[str, Any]:
        inputs = self.preprocess(batch.obs, rng)
        fields = self.targets(inputs, batch, needs, rng)
        if "embed_ema" in needs:
            fields["embed_ema"] = self.encoder_ema(inputs)
        fields["embed"] = self.encoder({**inputs, "image": self.mask(inputs["image"], rng)})
        return fields

    def mask(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        """image (B, T, C, Y, X) with random patches set to 0; unchanged without rng."""
        if rng is None:
            return image
        y, x = image.shape[-2] // 8, image.shape[-1] // 8
        keep = torch.rand(*image.shape[:2], 1, y, x, generator=rng) < 0.5
        return image * keep.repeat_interleave(8, -2).repeat_interleave(8, -1)

    def after_step(self) -> None:
        self.encoder_ema.update(self.encoder)


def consistency(model: Any, rollout: Any, settings: Any) -> Tensor:
    """|embedding of the masked frame - average's embedding of the whole frame|^2: mean over E, B and T."""
    return (rollout.embed - rollout.embed_ema).square().mean()


@pytest.fixture
def model() -> Iterator[MaskedRSSM]:
    loss("embed_consistency", updates={"encoder"}, reads={"embed", "embed_ema"}, source="this test")(consistency)
    options: dict[str, Any] = {name: value for name, value in SMALL.items() if fits("rssm", {name: value})}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield MaskedRSSM(RssmConfig(**options), make_env().spec)
    registry._components["loss"].pop("embed_consistency")


LOSSES = ("embed_consistency", "image", "reward", "kl")


def test_training_moves_the_ema_branch_without_gradient(model: MaskedRSSM) -> None:
    objective = TrainingObjective(Learner({"model": model}), {name: LossConfig(1.0) for name in LOSSES})
    groups = model.groups()
    optimizer = torch.optim.AdamW([p for params in groups.values() for p in params], lr=1e-3)
    before = [p.clone() for p in model.encoder_ema.parameters()]
    online = [p.clone() for p in model.encoder.parameters()]
    total, metrics = objective(windows(1)[0], generator())
    total.backward()
    optimizer.step()
    model.after_step()
    assert {f"loss/{name}" for name in LOSSES} <= metrics.keys()
    assert all(p.grad is None for p in model.encoder_ema.parameters())
    assert all(not torch.equal(p, old) for p, old in zip(model.encoder.parameters(), online, strict=True))
    for average, old, new in zip(model.encoder_ema.parameters(), before, model.encoder.parameters(), strict=True):
        torch.testing.assert_close(average, old + 0.05 * (new - old))


def test_the_ema_branch_is_in_no_group_and_every_route_is_as_declared(model: MaskedRSSM) -> None:
    in_groups = {id(p) for params in model.groups().values() for p in params}
    assert not in_groups & {id(p) for p in model.encoder_ema.parameters()}
    losses = {name: registry.get("loss", name) for name in LOSSES}
    settings = {name: LossConfig().for_name(name).settings for name in LOSSES}
    needs = frozenset().union(*(entry.reads for entry in losses.values()))
    probes = [model.observe(batch, needs, generator(i)) for i, batch in enumerate(windows(2))]
    report = check_routes(
        model.groups(),
        {n: (lambda roll, n=n: losses[n](model, roll, settings[n]), losses[n].updates) for n in LOSSES},
        probes,
        model,
    )
    assert not report.violations(), report.table()


def test_only_the_recurrence_reads_the_mask(model: MaskedRSSM) -> None:
    """Targets are whole frames, and without rng nothing is masked."""
    batch = windows(1)[0]
    masked, whole = model.observe(batch, {"embed", "frames"}, generator()), model.observe(batch, {"embed"})
    assert not torch.equal(masked.embed, whole.embed)
    torch.testing.assert_close(masked.frames, batch.obs["image"] / 255 - 0.5)
