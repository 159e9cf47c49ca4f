"""The defaults of the models' base class."""

from __future__ import annotations

import torch
from torch import nn

from isochrone.core.gradient import EMA
from isochrone.models.base import Model


class Two(Model):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.ema = EMA(self.one, 0.5)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"one": [*self.one.parameters()], "two": [*self.two.parameters()]}


def test_after_step_changes_nothing_by_default() -> None:
    model = Two()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.after_step()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
