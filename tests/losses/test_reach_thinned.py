"""Random coordinates taken out of the starts of distances; and weights for pairs that look alike."""

from __future__ import annotations

import pytest
import torch
from tinymodel import generator, tiny, windows

from isochrone.core import registry
from isochrone.core.types import Rollout
from isochrone.losses.reach import DROPPED, Bellman, CoordinateDropout, drop_coordinates
from isochrone.nets.quasimetric import MaxCoordinate


def test_the_share_of_coordinates_grows_to_all_of_them() -> None:
    model, start = tiny(p=40), torch.randn(400, 40, generator=generator())
    cfg = CoordinateDropout(keep_fraction=0.25, full_progress=0.5)
    for share, kept in ((0.0, 0.25), (0.25, 0.625), (0.5, 1.0), (1.0, 1.0)):
        some = drop_coordinates(start, model, Rollout(windows(1)[0], {}, generator(), share), cfg)
        same = some == start
        assert (some[~same] == DROPPED).all()
        assert float(same.float().mean()) == pytest.approx(kept, abs=0.02)
        if kept < 1:
            assert len({tuple(row) for row in same.tolist()}) > 350  # every start has its own


def test_only_a_separable_metric_is_thinned() -> None:
    start = torch.randn(3, 8, generator=generator())
    for metric in ("max", "residual", "euclidean", "interval"):
        roll = Rollout(windows(1)[0], {}, generator(), 0.0)
        whole = torch.equal(
            drop_coordinates(start, tiny(metric=metric), roll, CoordinateDropout(keep_fraction=0.5)), start
        )
        assert whole == (metric != "max")


def test_coordinate_dropout_shortens_distances_only() -> None:
    a, b = torch.randn(2, 20, 8, generator=generator())
    a.requires_grad_()
    model = tiny(metric="max")
    some = drop_coordinates(
        a, model, Rollout(windows(1)[0], {}, generator(), 0.0), CoordinateDropout(keep_fraction=0.5)
    )
    far = model.metric.pairs(some, b)
    assert (far <= model.metric.pairs(a, b)).all()
    assert (far >= 0).all()
    (pull,) = torch.autograd.grad(far.sum(), a)
    assert (pull[some == DROPPED] == 0).all()
    assert bool((pull != 0).any())
    all_out = model.metric.pairs(torch.full((1, 8), DROPPED), b)
    assert (all_out == 0).all()


def test_a_table_without_gradient_is_the_same_table() -> None:
    a, b = torch.randn(2, 20, 8, generator=generator())
    metric = MaxCoordinate(8)
    with torch.no_grad():
        bare = metric.pairs(a, b)
    assert torch.equal(bare, metric.pairs(a.requires_grad_(), b))


def test_pairs_that_look_alike_weigh_more() -> None:
    """near adds exp(-(how far apart they look)^2 / 2), in steps of z, times the error."""
    model, batch = tiny(), windows(1)[0]
    term = registry.get("loss", "bellman_p")
    roll = model.observe(batch, {"z", "z_in", "h", "p"}, generator())

    def value(near: float) -> float:
        return term(model, Rollout(batch, roll.fields, generator(3)), Bellman(near=near, pairs=500)).item()

    plain, once, twice = value(0.0), value(1.0), value(2.0)
    assert plain < once < 2 * plain  # a weight of 1 at most doubles a pair
    assert twice - once == pytest.approx(once - plain, rel=1e-4)


def test_the_weight_of_looks_trains_nothing() -> None:
    model, batch = tiny(), windows(1)[0]
    term = registry.get("loss", "bellman_p")
    roll = model.observe(batch, {"z", "z_in", "h", "p"}, generator())
    seen = roll.z_in.clone().requires_grad_()
    loss = term(model, Rollout(batch, {**roll.fields, "z_in": seen}, generator(3)), Bellman(near=50.0))
    assert torch.autograd.grad(loss, seen, allow_unused=True)[0] is None
