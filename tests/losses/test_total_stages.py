"""Losses that are active for a part of the training: which ones when, and which weights then move."""

import pytest
import torch
from tinymodel import objective, tiny, windows

from isochrone.core.errors import UserError
from isochrone.losses.loss import LossConfig
from isochrone.losses.objective import TrainingObjective
from isochrone.training.optim import OptimConfig, lr_factor


def staged() -> TrainingObjective:
    losses = {"recon_multi_box": LossConfig(stop=0.5), "jepa": LossConfig(start=0.25), "reach_p": LossConfig()}
    return objective(tiny(), losses)


def test_losses_are_active_from_start_to_stop():
    total = staged()
    seen = []
    for share in (0.0, 0.1, 0.25, 0.4, 0.5, 0.99, 1.0):
        changed = total.set_progress(share)
        seen.append((sorted(total.active), changed))
    both, all_three, late = ["reach_p", "recon_multi_box"], ["jepa", "reach_p", "recon_multi_box"], ["jepa", "reach_p"]
    assert [names for names, _ in seen] == [both, both, all_three, all_three, late, late, late]
    assert [changed for _, changed in seen] == [True, False, True, False, True, False, False]


def test_an_inactive_loss_is_not_computed_and_moves_nothing():
    total = staged()
    total.set_progress(0.6)
    loss, metrics = total(windows()[0], torch.Generator().manual_seed(0))
    loss.backward()
    assert "loss/recon_multi_box" not in metrics
    assert "loss/jepa" in metrics
    assert all(p.grad is None for p in total.model.decoder.parameters())
    assert all(p.grad is None for p in total.model.encoder.parameters())


def test_group_spans_follow_from_the_declared_routes():
    spans = staged().group_spans()
    assert spans["encoder"] == spans["decoder"] == (0.0, 0.5)
    assert spans["predictor"] == (0.25, 1.0)
    assert spans["pose"] == (0.0, 1.0)
    assert "delta_h" not in spans  # nothing moves it


@pytest.mark.parametrize(
    "entry, sentence",
    [
        (LossConfig(start=0.5, stop=0.5), "loss.jepa.start = 0.5, loss.jepa.stop = 0.5: start must be less than stop"),
        (LossConfig(stop=1.5), "loss.jepa.stop = 1.5: must be at most 1"),
        (LossConfig(start=-0.1), "loss.jepa.start = -0.1: must be at least 0"),
        (LossConfig(weight=-1.0), "loss.jepa.weight = -1.0: must be at least 0"),
        (LossConfig(weight=float("inf")), "loss.jepa.weight = inf: must be a finite number that float32 can hold"),
        (LossConfig(settings=LossConfig()), "must be a Robust"),
    ],
)
def test_impossible_entries_are_refused(entry, sentence):
    with pytest.raises(UserError) as error:
        objective(tiny(), {"jepa": entry, "z2h": LossConfig()})
    assert sentence in str(error.value)


def test_a_gap_without_any_loss_is_refused():
    with pytest.raises(UserError, match="no loss is active at 30% of the training"):
        objective(tiny(), {"jepa": LossConfig(start=0.5), "z2h": LossConfig(stop=0.3)})


def test_the_schedule_fits_into_the_span():
    config = OptimConfig(warmup=4, schedule="cosine", lr=1.0)
    got = [lr_factor(step, 100, config, (0.25, 0.75)) for step in range(1, 101)]
    assert got[:25] == [0.0] * 25
    assert got[75:] == [0.0] * 25
    assert got[25:75] == [lr_factor(step, 50, config) for step in range(1, 51)]
