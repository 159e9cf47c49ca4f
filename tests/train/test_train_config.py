"""TrainConfig's limits, the schedule against its closed form, launching."""

import math

import pytest
import torch

from isochrone.core.config import from_dict, override, to_dict, validate
from isochrone.core.errors import UserError
from isochrone.train.config import TrainConfig, factor, scales
from isochrone.train.device import device_of, generator, launch


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": "0"}, "steps = 0: must be at least 1"),
        ({"lr": "-1"}, "lr = -1.0: must be greater than 0"),
        ({"lr": "nan"}, "not NaN"),
        ({"lr": "inf"}, "finite"),
        ({"betas": "0.9,1"}, "less than 1"),
        ({"schedule": "step"}, "one of constant, cosine, linear"),
        ({"precision": "16"}, "one of 32-true, bf16-mixed"),
        ({"keep": "0"}, "keep = 0"),
        ({"warmup": "50", "steps": "50"}, "warmup = 50: must be less than steps = 50"),
        ({"lr_scale": "pose"}, "GROUP:NUMBER"),
        ({"lr_scale": "pose:-1"}, "GROUP:NUMBER"),
        ({"stesp": "3"}, "did you mean 'steps'"),
    ],
)
def test_bad_values_are_told(change, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        override(TrainConfig(), change)


def test_config_round_trips():
    config = override(TrainConfig(), {"lr-scale": "pose:0.1,z2h:2", "betas": "0.8,0.95", "steps": "1e3"})
    assert config.steps == 1000 and scales(config.lr_scale) == {"pose": 0.1, "z2h": 2.0}
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_schedule_is_its_closed_form(schedule):
    config = TrainConfig(steps=110, warmup=10, schedule=schedule, final_lr=0.2)
    assert [factor(n, config) for n in (1, 5, 10)] == [0.1, 0.5, 1.0]
    half, end = {"constant": (1, 1), "cosine": (0.6, 0.2), "linear": (0.6, 0.2)}[schedule]
    assert factor(60, config) == pytest.approx(half) and factor(110, config) == pytest.approx(end)
    if schedule == "cosine":
        assert factor(35, config) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    values = [factor(n, config) for n in range(10, 111)]
    assert values == sorted(values, reverse=True)


def test_no_warmup_starts_at_full_rate():
    assert factor(1, TrainConfig(steps=1)) == 1.0
    assert factor(1, TrainConfig(steps=1, schedule="linear", final_lr=0.5)) == 0.5


def test_generators_are_apart_and_repeat():
    first = {use: torch.rand(4, generator=generator(7, use)) for use in ("sample", "loss")}
    assert torch.equal(first["sample"], torch.rand(4, generator=generator(7, "sample")))
    assert not torch.equal(first["sample"], first["loss"])
    assert not torch.equal(first["sample"], torch.rand(4, generator=generator(8, "sample")))


def test_launch_sets_threads_and_device():
    fabric = launch(TrainConfig(threads=2, accelerator="cpu"))
    assert torch.get_num_threads() == 2 and fabric.device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_a_missing_gpu_is_told():
    assert device_of(TrainConfig(accelerator="auto")).type == "cpu"
    with pytest.raises(UserError, match="sees no GPU"):
        launch(validate(TrainConfig(accelerator="cuda")))
