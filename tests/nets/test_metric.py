"""Every metric is a quasimetric by construction; the closed-form ones equal brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isochrone.nets.quasimetric import METRICS, Euclidean, Interval, MaxCoordinate, Residual

SIZE = 16


def metric(name: str, size: int = SIZE, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return METRICS[name](size).double()


def points(seed: int, count: int, scale: float = 3.0, size: int = SIZE) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_the_triangle_inequality_and_no_negative_distance(name: str, seed: int, scale: float) -> None:
    x = points(seed, 9, scale)
    with torch.no_grad():
        d = metric(name, seed=seed % 7)(x[:, None], x[None])  # (9, 9)
    detour = (d[:, :, None] + d[None]).amin(1)
    assert d.min() >= 0
    assert bool((d <= detour + 1e-9 * max(scale, 1)).all())


@pytest.mark.parametrize("name", METRICS)
def test_the_distance_of_a_pose_to_itself_is_zero(name: str) -> None:
    x = points(0, 20)
    assert metric(name)(x, x).max() <= 1.1e-6  # the root's floor, so that its gradient stays finite


@pytest.mark.parametrize("name", METRICS)
def test_gradients_are_finite_where_two_poses_meet(name: str) -> None:
    x = points(0, 6).requires_grad_()
    assert torch.autograd.grad(metric(name)(x[:, None], x[None]).sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("name", "oneway"), [("max", True), ("residual", True), ("interval", True), ("euclidean", False)]
)
def test_only_quasimetrics_are_asymmetric(name: str, oneway: bool) -> None:
    d = metric(name)
    a, b = points(0, 50), points(1, 50)
    assert bool((d(a, b) - d(b, a)).abs().max() > 0.1) is oneway


@pytest.mark.parametrize("name", METRICS)
def test_pairs_is_the_table_of_all_distances_with_its_gradient(name: str) -> None:
    made = metric(name)
    a, b = points(0, 7).requires_grad_(), points(1, 5).requires_grad_()
    table = made.pairs(a, b)  # pyright: ignore[reportCallIssue]
    one = torch.stack([torch.stack([made(x, y) for y in b]) for x in a])
    torch.testing.assert_close(table, one)
    weight = torch.rand(7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = torch.autograd.grad((table * weight).sum(), [a, b], retain_graph=True)
    for ours, theirs in zip(found, torch.autograd.grad((one * weight).sum(), [a, b]), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", METRICS)
def test_poses_broadcast(name: str) -> None:
    made = metric(name)
    a, b = points(0, 6).reshape(2, 3, SIZE), points(1, 3)
    assert made(a, b).shape == (2, 3)
    assert made(a[:, :, None], b).shape == (2, 3, 3)
    assert made(a[0, 0], b[0]).shape == ()
    torch.testing.assert_close(made(a, b)[1, 2], made(a[1, 2], b[2]))


def test_euclidean_is_the_norm() -> None:
    a, b = points(0, 9), points(1, 9)
    torch.testing.assert_close(Euclidean(SIZE)(a, b), (a - b).norm(dim=-1))


def test_max_coordinate() -> None:
    a, b = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([4.0, 1.0, 3.0])
    assert MaxCoordinate(3)(a, b) == 3
    assert MaxCoordinate(3)(b, a) == 4
    assert MaxCoordinate(3)(a, a - 1) == 0, "what leads only down costs nothing"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 12))
def test_any_digraph_embeds_exactly_in_max_coordinate(seed: int, size: int) -> None:
    """p_i(x) = d(i, x) (Kuratowski): the sup quasimetric gives every shortest path back."""
    rng = torch.Generator().manual_seed(seed)
    d = torch.where(torch.rand(size, size, generator=rng) < 0.4, 1.0, 99.0).double()
    d[torch.arange(size), (torch.arange(size) + 1) % size] = 1.0  # a ring: everything can be reached
    d.fill_diagonal_(0)
    for k in range(size):
        d = torch.minimum(d, d[:, k, None] + d[None, k])
    pose = d.T.contiguous()  # (size, size): row x holds d(i, x)
    assert torch.equal(MaxCoordinate(size).pairs(pose, pose), d)


def union_length(spans: list[tuple[float, float]]) -> float:
    """Length of a union of intervals, by cutting the line at every end."""
    ends = sorted({e for span in spans for e in span})
    covered = 0.0
    for low, high in zip(ends[:-1], ends[1:], strict=True):
        if any(a <= low and high <= b for a, b in spans):
            covered += high - low
    return covered


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_interval_is_the_mean_length_of_unions(seed: int) -> None:
    made, a, b = Interval(24, groups=4), points(seed, 3, size=24), points(seed + 1, 3, size=24)
    for x, y, found in zip(a, b, made(a, b), strict=True):
        lengths = []
        for g in range(4):
            rows = range(6 * g, 6 * g + 6)
            lengths.append(union_length([(x[i].item(), max(x[i].item(), y[i].item())) for i in rows]))
        assert found.item() == pytest.approx(sum(lengths) / 4)


def test_interval_refuses_a_size_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="pose size 12 is not a multiple of 8"):
        Interval(12)


def test_residual_is_its_two_parts() -> None:
    made, a, b = Residual(SIZE).double(), points(0, 4), points(1, 4)
    near = (made.sym(a) - made.sym(b)).square().mean(-1).sqrt()
    far = (made.asym(b) - made.asym(a)).clamp_min(0).amax(-1)
    torch.testing.assert_close(made(a, b), near + far)
