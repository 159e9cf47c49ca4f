"""Codes of a frozen encoder: what encoding gives, filled exactly while no loss updates it, new after a resume."""

import pytest
import torch
from tinymodel import objective, recorded, tiny, weighted

from isochrone.losses.loss import LossConfig
from isochrone.workflows.encoder_cache import FrozenEncoderCache


@pytest.fixture
def cache():
    replay = recorded(rows=60)
    yield FrozenEncoderCache(
        objective(tiny(), {"recon_multi_box": LossConfig(stop=0.5), "jepa": LossConfig()}), replay, 10_000
    )
    replay.cached = {}  # it is shared


def sampled(cache, length=5):
    return cache.replay.sample(6, length, torch.Generator().manual_seed(0))


def test_there_exactly_while_the_encoder_rests(cache):
    seen = []
    for share in (0.0, 0.49, 0.5, 0.9, 0.2):
        cache.update(share)
        seen.append(bool(sampled(cache).cached))
    assert seen == [False, False, True, True, False]
    spans = cache.objective.group_spans()
    assert spans["encoder"] == (0.0, 0.5)
    assert spans["predictor"] == (0.0, 1.0)


def test_an_attached_encoder_is_never_at_rest(cache):
    attached = FrozenEncoderCache(objective(tiny(stop_grad_to_encoder=False), weighted(jepa=1.0)), cache.replay, 10_000)
    attached.update(0.9)
    assert sampled(attached).cached == {}


def test_codes_are_what_encoding_gives_and_losses_agree(cache):
    model = cache.objective.model
    batch = sampled(cache)
    cache.update(0.7)
    cache.objective.set_progress(0.7)
    batch_cached = sampled(cache)
    assert torch.equal(batch_cached.action, batch.action)
    assert torch.allclose(batch_cached.cached["z"], model.encode_image(batch.obs["image"]), atol=1e-5)
    values = [cache.objective(b, torch.Generator().manual_seed(1))[0] for b in (batch, batch_cached)]
    assert torch.allclose(*values, rtol=1e-4)
    grads = [torch.autograd.grad(v, list(model.embed.parameters())) for v in values]
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_new_rows_and_new_weights_are_encoded_anew(cache):
    cache.update(0.7)
    old = cache.replay.cached["z"]
    cache.update(0.8)
    assert cache.replay.cached["z"] is old
    with torch.no_grad():
        for weight in cache.objective.model.encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    cache.clear()  # as a restored checkpoint does
    cache.update(0.8)
    assert not torch.allclose(cache.replay.cached["z"], old, atol=1e-3)
    cache._rows -= 1  # as if a row had come since
    again = cache.replay.cached["z"]
    cache.update(0.8)
    assert cache.replay.cached["z"] is not again
    assert torch.equal(cache.replay.cached["z"], again)


def test_large_recording_is_not_encoded_whole(cache):
    cache.draws_until_change = len(cache.replay) - 1
    cache.update(0.7)
    assert sampled(cache).cached == {}
