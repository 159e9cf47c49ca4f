"""While the encoder rests, each frame's code is a constant: computed once for the whole replay, then looked up."""

from __future__ import annotations

from typing import Any

import torch

from isochrone.data.replay import Replay
from isochrone.evals.model_access import encode
from isochrone.losses.objective import TrainingObjective

ENCODER = "encoder"


class Resting:
    """Keeps `replay.known` filled exactly while no loss moves the encoder.

    That is a function of the share of training alone, and the codes are one of the weights and the rows alone (computed
    in the same chunks each time), so a resumed run looks up the same bits.
    """

    def __init__(self, total: TrainingObjective, replay: Replay, drawn: int) -> None:
        """
        Args:
            drawn: frames that are drawn before the replay changes; where it holds more, encoding all would cost more.
        """
        self.total, self.replay, self.drawn = total, replay, drawn
        self._moves = total.group_spans().get(ENCODER, (0.0, 0.0))  # shares between which some loss moves it
        self._rows = -1  # rows ever written when the table was made; -1: there is none

    def at(self, share: float) -> None:
        """Make, keep or drop the table, for the step at this share of the training."""
        model: Any = self.total.model
        start, end = self._moves
        if model.framewise is None or len(self.replay) > self.drawn or start <= share < end:
            self.forget()
        elif self._rows != self.replay.total:
            self.replay.known = {model.framewise: self._codes(model)}
            self._rows = self.replay.total

    def forget(self) -> None:
        """Nothing is known: the encoder moves."""
        self.replay.known, self._rows = {}, -1

    def _codes(self, model: Any) -> torch.Tensor:
        lanes = (torch.from_numpy(self.replay.ring(lane, "obs/image")) for lane in range(self.replay.lanes))
        return torch.stack([encode(model, lane).float().cpu() for lane in lanes])
