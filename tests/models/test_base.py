"""The check that groups are a partition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isochrone.core.gradient import EMA
from isochrone.models.base import Model, check_partition, merge_time


class Two(Model):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.slow = EMA(self.one, 0.5)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"one": [*self.one.parameters()], "two": [*self.two.parameters()]}


def test_a_partition_passes_and_slow_copies_need_no_group() -> None:
    model = Two()
    check_partition(model, model.groups())


def test_overlap_and_gaps_are_named() -> None:
    model = Two()
    with pytest.raises(ValueError, match="a parameter is in group 'one' and in 'again'"):
        check_partition(model, {**model.groups(), "again": [model.one.weight]})
    with pytest.raises(ValueError, match=r"parameters in no group: two\.weight, two\.bias"):
        check_partition(model, {"one": [*model.one.parameters()]})


def test_merge_time() -> None:
    assert merge_time(torch.zeros(2, 3, 4, 5)).shape == (6, 4, 5)


def test_nothing_moves_after_a_step_unless_the_model_says_so() -> None:
    model = Two()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.after_step()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
