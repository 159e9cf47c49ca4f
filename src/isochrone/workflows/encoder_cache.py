"""Cached encodings of the replay: while no active loss updates the encoder, every frame is encoded only once."""

from __future__ import annotations

from typing import Any

import torch

from isochrone.data.replay import ReplayBuffer
from isochrone.evals.model_access import encode
from isochrone.losses.objective import TrainingObjective

ENCODER = "encoder"


class FrozenEncoderCache:
    """Fills `replay.cached` exactly while no loss updates the encoder.

    Whether it does depends on the progress of training alone, and the encodings on the weights and the rows alone
    (computed in the same chunks each time), so a resumed run reads the same bits.
    """

    def __init__(self, objective: TrainingObjective, replay: ReplayBuffer, draws_until_change: int) -> None:
        """
        Args:
            draws_until_change: frames that are sampled before the replay changes. A replay that holds more frames is
                not cached: encoding all of it would cost more.
        """
        self.objective, self.replay, self.draws_until_change = objective, replay, draws_until_change
        self._active = objective.group_spans().get(ENCODER, (0.0, 0.0))  # progress between which a loss updates it
        self._rows = -1  # rows ever written when the cache was filled; -1: it is empty

    def update(self, progress: float) -> None:
        """Fill, keep or clear the cache for the step at this progress (fraction of the training steps done)."""
        model: Any = self.objective.model
        start, stop = self._active
        large = len(self.replay) > self.draws_until_change
        if model.cacheable_field is None or large or start <= progress < stop:
            self.clear()
        elif self._rows != self.replay.total:
            self.replay.cached = {model.cacheable_field: self._encodings(model)}
            self._rows = self.replay.total

    def clear(self) -> None:
        """Empty the cache: the encoder is updated, or other weights were loaded."""
        self.replay.cached, self._rows = {}, -1

    def _encodings(self, model: Any) -> torch.Tensor:
        rings = (torch.from_numpy(self.replay.ring(env, "obs/image")) for env in range(self.replay.num_envs))
        return torch.stack([encode(model, ring).float().cpu() for ring in rings])
