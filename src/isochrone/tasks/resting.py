"""While the encoder rests, each frame's code is a constant: computed once for the whole replay, then looked up."""

from __future__ import annotations

from typing import Any

import torch

from isochrone.data.replay import Replay
from isochrone.objectives.total import Total

ENCODER = "encoder"


class Resting:
    """Keeps `replay.known` filled exactly while no loss moves the encoder.

    That is a function of the share of training alone, and the codes are one of the weights and the rows alone (computed
    a lane at a time), so a resumed run looks up the same bits.
    """

    def __init__(self, total: Total, replay: Replay) -> None:
        self.total, self.replay = total, replay
        self._rows = -1  # rows ever written when the table was made; -1: there is none

    def at(self, share: float) -> None:
        """Make, keep or drop the table, for the step at this share of the training."""
        model: Any = self.total.model
        if model.framewise is None or ENCODER in self.total.moves(share):
            self.forget()
        elif self._rows != self.replay.total:
            self.replay.known = {model.framewise: self._codes(model)}
            self._rows = self.replay.total

    def forget(self) -> None:
        """Nothing is known: the encoder moves."""
        self.replay.known, self._rows = {}, -1

    @torch.no_grad()
    def _codes(self, model: Any) -> torch.Tensor:
        device = next(model.parameters()).device
        lanes = (torch.from_numpy(self.replay.ring(lane, "obs/image")) for lane in range(self.replay.lanes))
        return torch.stack([model.encode(lane.to(device)).float().cpu() for lane in lanes])
