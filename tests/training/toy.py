"""A small thing to train, with the shape of a `TrainingObjective`: it predicts the next observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core.gradient import EMA
from isochrone.core.types import Batch
from isochrone.training.learner import Learner


class ToyModel(nn.Module):
    def __init__(self, width: int = 8, seed: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enc, self.dyn = nn.Linear(4, width), nn.Linear(width + 2, width)
        self.slow = EMA(self.enc, 0.1)
        self.register_buffer("seen", torch.zeros(()))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"z": list(self.enc.parameters()), "dyn": list(self.dyn.parameters())}

    @torch.no_grad()
    def after_step(self) -> None:
        self.slow.update(self.enc)
        self.seen += 1


class ToyObjective(nn.Module):
    """`poison` (step -> factor on the loss) makes chosen steps go wrong."""

    def __init__(self, width: int = 8, poison: dict[int, float] | None = None, noise: float = 0.1) -> None:
        super().__init__()
        self.learner = Learner({"model": ToyModel(width)})
        self.poison, self.noise = poison or {}, noise

    @property
    def model(self) -> Any:
        return self.learner.model

    def forward(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        now, after, _ = batch.pairs()
        z = self.model.enc(now.obs["state"])  # (B, T-1, W)
        z = z + self.noise * torch.randn(z.shape, generator=rng)
        guess = self.model.dyn(torch.cat([z.tanh(), now.action], -1))  # (B, T-1, W)
        predict = (guess - self.model.slow(after.obs["state"])).square().mean()
        size = (z.std() - 1).square() * self.poison.get(int(self.model.seen) + 1, 1.0)
        loss = predict + size
        return loss, {"loss/predict": predict.detach(), "loss/size": size.detach(), "loss": loss.detach()}


def sample(rng: torch.Generator, batch: int = 4, length: int = 6) -> Batch:
    """Random windows of a drifting state."""
    flags = torch.zeros(batch, length, dtype=torch.bool)
    state = torch.randn(batch, length, 4, generator=rng).cumsum(1)
    action = torch.rand(batch, length, 2, generator=rng) * 2 - 1
    return Batch({"state": state}, action, torch.zeros(batch, length), flags, flags, flags)


class Reader:
    """A sampler with a cursor of its own, which a checkpoint must hold; nothing is drawn twice."""

    def __init__(self) -> None:
        self.cursor, self.last = 0, torch.zeros(3)
        self.flushed = 0

    def __call__(self, rng: torch.Generator) -> Batch:
        self.cursor += 1
        batch = sample(rng)
        self.last = batch.reward.new_tensor([1.0, 2.0, 3.0]) * self.cursor
        return batch.replace(obs={"state": batch.obs["state"] + 0.01 * self.cursor})

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "deep": {"last": self.last}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cursor, self.last = state["cursor"], state["deep"]["last"]

    def flush(self) -> None:
        self.flushed += 1
