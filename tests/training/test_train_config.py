"""Limits of the training options, the schedule against its closed form, launching."""

import math

import pytest
import torch

from isochrone.core.config import from_dict, override, to_dict, validate
from isochrone.core.errors import UserError
from isochrone.recipes.schema import Config
from isochrone.training.config import TrainConfig
from isochrone.training.device import device_of, generator, launch
from isochrone.training.optim import OptimConfig, lr_factor, parse_scales


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": "0"}, "steps = 0: must be at least 1"),
        ({"divergence_factor": "1"}, "divergence_factor = 1.0: must be greater than 1"),
        ({"precision": "16"}, "one of 32-true, bf16-mixed"),
        ({"keep": "0"}, "keep = 0"),
        ({"stesp": "3"}, "did you mean 'steps'"),
        ({"lr": "1"}, "unknown option 'lr'"),
    ],
)
def test_bad_training_options_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        override(TrainConfig(), change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "adam"}, "one of adamw, laprop"),
        ({"agc": "-1"}, "agc = -1.0: must be at least 0"),
        ({"lr": "-1"}, "lr = -1.0: must be greater than 0"),
        ({"lr": "nan"}, "finite number"),
        ({"lr": "inf"}, "finite"),
        ({"betas": "0.9,1"}, "less than 1"),
        ({"schedule": "step"}, "one of constant, cosine, linear"),
        ({"lr_scale": "pose"}, "GROUP:NUMBER"),
        ({"lr_scale": "pose:-1"}, "GROUP:NUMBER"),
    ],
)
def test_bad_optimiser_options_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        override(OptimConfig(), change)


def test_the_warmup_must_end_before_the_training():
    with pytest.raises(UserError, match="optim.model.warmup = 50: must be less than train.steps = 50"):
        override(Config(), {"optim.model.warmup": "50", "train.steps": "50"})


def test_an_old_name_is_answered_with_the_new_one():
    with pytest.raises(UserError, match="unknown option 'train.lr'; did you mean 'optim.model.lr'"):
        override(Config(), {"train.lr": "1"})


def test_config_round_trips():
    config = override(OptimConfig(), {"lr-scale": "pose:0.1,z2h:2", "betas": "0.8,0.95", "warmup": "1e3"})
    assert config.warmup == 1000
    assert parse_scales(config.lr_scale) == {"pose": 0.1, "z2h": 2.0}
    assert from_dict(OptimConfig, to_dict(config)) == config


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_schedule_is_its_closed_form(schedule):
    config = OptimConfig(warmup=10, schedule=schedule, final_lr=0.2)
    assert [lr_factor(n, 110, config) for n in (1, 5, 10)] == [0.1, 0.5, 1.0]
    half, end = {"constant": (1, 1), "cosine": (0.6, 0.2), "linear": (0.6, 0.2)}[schedule]
    assert lr_factor(60, 110, config) == pytest.approx(half)
    assert lr_factor(110, 110, config) == pytest.approx(end)
    if schedule == "cosine":
        assert lr_factor(35, 110, config) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    values = [lr_factor(n, 110, config) for n in range(10, 111)]
    assert values == sorted(values, reverse=True)


def test_no_warmup_starts_at_full_rate():
    assert lr_factor(1, 1, OptimConfig()) == 1.0
    assert lr_factor(1, 1, OptimConfig(schedule="linear", final_lr=0.5)) == 0.5


def test_generators_are_apart_and_repeat():
    first = {use: torch.rand(4, generator=generator(7, use)) for use in ("sample", "loss")}
    assert torch.equal(first["sample"], torch.rand(4, generator=generator(7, "sample")))
    assert not torch.equal(first["sample"], first["loss"])
    assert not torch.equal(first["sample"], torch.rand(4, generator=generator(8, "sample")))


def test_launch_sets_the_device_and_leaves_the_threads():
    before = torch.get_num_threads()
    fabric = launch(TrainConfig(threads=before + 1, accelerator="cpu"))
    assert torch.get_num_threads() == before
    assert fabric.device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_a_missing_gpu_is_told():
    assert device_of(TrainConfig(accelerator="auto")).type == "cpu"
    with pytest.raises(UserError, match="sees no GPU"):
        launch(validate(TrainConfig(accelerator="cuda")))
