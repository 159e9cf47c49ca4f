"""Codes of a resting encoder: what encoding gives, there exactly while no loss moves it, new after a resume."""

import pytest
import torch
from tinyworld import recorded, tiny

from isochrone.losses.objective import TrainingObjective
from isochrone.workflows.encoder_cache import Resting


@pytest.fixture
def resting():
    replay = recorded(rows=60)
    yield Resting(
        TrainingObjective(tiny(), {"recon_multi_box": 1.0, "jepa": 1.0}, until={"recon_multi_box": 0.5}), replay, 10_000
    )
    replay.known = {}  # it is shared


def sampled(resting, length=5):
    return resting.replay.sample(6, length, torch.Generator().manual_seed(0))


def test_there_exactly_while_the_encoder_rests(resting):
    seen = []
    for share in (0.0, 0.49, 0.5, 0.9, 0.2):
        resting.at(share)
        seen.append(bool(sampled(resting).known))
    assert seen == [False, False, True, True, False]
    spans = resting.total.group_spans()
    assert spans["encoder"] == (0.0, 0.5) and spans["predictor"] == (0.0, 1.0)


def test_an_attached_encoder_is_never_at_rest(resting):
    attached = Resting(TrainingObjective(tiny(stop_grad_to_encoder=False), {"jepa": 1.0}), resting.replay, 10_000)
    attached.at(0.9)
    assert sampled(attached).known == {}


def test_codes_are_what_encoding_gives_and_losses_agree(resting):
    model = resting.total.model
    batch = sampled(resting)
    resting.at(0.7)
    resting.total.at(0.7)
    known = sampled(resting)
    assert torch.equal(known.action, batch.action)
    assert torch.allclose(known.known["z"], model.encode(batch.obs["image"]), atol=1e-5)
    values = [resting.total(b, torch.Generator().manual_seed(1))[0] for b in (batch, known)]
    assert torch.allclose(*values, rtol=1e-4)
    grads = [torch.autograd.grad(v, list(model.embed.parameters())) for v in values]
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_new_rows_and_new_weights_are_encoded_anew(resting):
    resting.at(0.7)
    old = resting.replay.known["z"]
    resting.at(0.8)
    assert resting.replay.known["z"] is old
    with torch.no_grad():
        for weight in resting.total.model.encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    resting.forget()  # as a restored checkpoint does
    resting.at(0.8)
    assert not torch.allclose(resting.replay.known["z"], old, atol=1e-3)
    resting._rows -= 1  # as if a row had come since
    again = resting.replay.known["z"]
    resting.at(0.8)
    assert resting.replay.known["z"] is not again and torch.equal(resting.replay.known["z"], again)


def test_a_recording_larger_than_what_will_be_drawn_of_it_is_not_encoded_whole(resting):
    resting.drawn = len(resting.replay) - 1
    resting.at(0.7)
    assert sampled(resting).known == {}
