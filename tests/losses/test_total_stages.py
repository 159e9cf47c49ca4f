"""Terms that rest for a share of the training: what is active when, and which weights then move."""

import pytest
import torch
from tinyworld import tiny, windows

from isochrone.core.errors import UserError
from isochrone.losses.objective import TrainingObjective
from isochrone.train.config import TrainConfig, factor


def staged() -> TrainingObjective:
    weights = {"recon_multi_box": 1.0, "jepa": 1.0, "reach_p": 1.0}
    return TrainingObjective(tiny(), weights, after={"jepa": 0.25}, until={"recon_multi_box": 0.5})


def test_terms_wake_and_rest_at_their_shares():
    total = staged()
    seen = []
    for share in (0.0, 0.1, 0.25, 0.4, 0.5, 0.99, 1.0):
        changed = total.at(share)
        seen.append((sorted(total.active), changed))
    both, all_three, late = ["reach_p", "recon_multi_box"], ["jepa", "reach_p", "recon_multi_box"], ["jepa", "reach_p"]
    assert [names for names, _ in seen] == [both, both, all_three, all_three, late, late, late]
    assert [changed for _, changed in seen] == [True, False, True, False, True, False, False]


def test_a_resting_term_costs_nothing_and_moves_nothing():
    total = staged()
    total.at(0.6)
    loss, metrics = total(windows()[0], torch.Generator().manual_seed(0))
    loss.backward()
    assert "loss/recon_multi_box" not in metrics and "loss/jepa" in metrics
    assert all(p.grad is None for p in total.model.decoder.parameters())
    assert all(p.grad is None for p in total.model.encoder.parameters())


def test_group_spans_follow_from_the_declared_routes():
    spans = staged().group_spans()
    assert spans["encoder"] == spans["decoder"] == (0.0, 0.5)
    assert spans["predictor"] == (0.25, 1.0) and spans["pose"] == (0.0, 1.0)
    assert "delta_h" not in spans  # nothing moves it


@pytest.mark.parametrize("after, until", [({"jepa": 0.5}, {"jepa": 0.5}), ({}, {"jepa": 1.5}), ({"jepa": -0.1}, {})])
def test_impossible_shares_are_refused(after, until):
    with pytest.raises(UserError, match="jepa"):
        TrainingObjective(tiny(), {"jepa": 1.0, "z2h": 1.0}, after=after, until=until)


def test_a_gap_without_any_loss_is_refused():
    with pytest.raises(UserError, match="no loss is active at 30%"):
        TrainingObjective(tiny(), {"jepa": 1.0, "z2h": 1.0}, after={"jepa": 0.5}, until={"z2h": 0.3})


def test_the_schedule_fits_into_the_span():
    config = TrainConfig(steps=100, warmup=4, schedule="cosine", lr=1.0)
    inside = TrainConfig(steps=50, warmup=4, schedule="cosine", lr=1.0)
    got = [factor(step, config, (0.25, 0.75)) for step in range(1, 101)]
    assert got[:25] == [0.0] * 25 and got[75:] == [0.0] * 25
    assert got[25:75] == [factor(step, inside) for step in range(1, 51)]
