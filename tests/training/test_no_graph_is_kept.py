"""Numbers kept for the log keep no graph, else every step's activations would stay in memory until the next tick."""

from __future__ import annotations

import torch
import toy

from isochrone.training.config import TrainConfig
from isochrone.training.device import generator, launch
from isochrone.training.monitor import Meter
from isochrone.training.optim import OptimConfig
from isochrone.training.step import Stepper


def test_a_meter_drops_the_graph() -> None:
    meter, weight = Meter(), torch.ones(2, requires_grad=True)
    meter.add({"loss": weight.sum(), "plain": torch.tensor(1.0)})
    assert not any(value.requires_grad for kept in meter.values.values() for value in kept)
    assert meter.means() == {"loss": 2.0, "plain": 1.0}


def test_a_steps_loss_and_norm_carry_no_graph() -> None:
    config = TrainConfig(steps=4, accelerator="cpu")
    told = Stepper(toy.ToyObjective(), config, {"model": OptimConfig()}, launch(config))(
        toy.sample(generator(0, "sample")), generator(0, "loss")
    )
    assert not told["loss"].requires_grad
    assert not told["grad_norm"].requires_grad
