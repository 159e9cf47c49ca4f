"""Robust smoothness that lets pipes be, and nearness in z by visible displacement."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tinymodel import generator, windows
from torch import Tensor

from isochrone.core import registry
from isochrone.core.tensors import as_float
from isochrone.core.types import Batch, Rollout
from isochrone.losses.pixels import centre_of_mass
from isochrone.losses.reductions import charbonnier, huber, masked_mean, norm, sse, truncated
from isochrone.losses.smoothness import Displacement, DisplacementRead, Motion, Smooth, gate, penalty

NONE = torch.nn.Identity()  # these terms ask nothing of the model
SMOOTH, RANK = registry.get("loss", "z_smooth"), registry.get("loss", "displacement_rank")
READ, MOTION = registry.get("loss", "displacement_read"), registry.get("loss", "motion_read")


# --- the penalties


@pytest.mark.parametrize("d", [0.0, 1e-4, 0.3, 0.9999, 1.0, 1.5, 20.0])
def test_values(d: float) -> None:
    x = torch.tensor(d, dtype=torch.float64)
    assert float(huber(x, 1.0)) == pytest.approx(d * d / 2 if d <= 1 else d - 0.5)
    assert float(huber(x, 0.5)) == pytest.approx(d * d / 2 if d <= 0.5 else 0.5 * (d - 0.25))
    assert float(huber(x, 1.0)) == pytest.approx(float(torch.nn.functional.huber_loss(x, x * 0)))
    assert float(charbonnier(x, 0.1)) == pytest.approx(math.hypot(d, 0.1) - 0.1)
    assert float(truncated(x, 4.0)) == pytest.approx(min(d * d, 4.0))
    for rho, value in (("huber", huber(x, 1.0)), ("charbonnier", charbonnier(x, 0.1)), ("truncated", truncated(x, 4))):
        assert penalty(x, Smooth(rho=rho)) == value  # pyright: ignore[reportArgumentType]


def test_slopes() -> None:
    d = torch.tensor([0.0, 0.5, 1.99, 2.01, 50.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(truncated(d, 4.0).sum(), d)
    torch.testing.assert_close(slope, torch.tensor([0.0, 1.0, 3.98, 0.0, 0.0], dtype=torch.float64))
    assert torch.autograd.grad(huber(d, 1.0).sum(), d)[0].max() == 1
    assert torch.autograd.grad(charbonnier(d, 0.1).sum(), d)[0].max() < 1


def test_reductions() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert sse(x, y).item() == 13
    assert norm(x).item() == pytest.approx(math.sqrt(5))
    assert masked_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False])) == 1.5
    assert masked_mean(torch.tensor([1.0]), torch.tensor([False])) == 0
    zero = torch.zeros(3, 2, requires_grad=True)
    assert torch.autograd.grad(norm(zero).sum(), zero)[0].isfinite().all()


def test_the_gate_fades_with_surprise() -> None:
    found = gate(torch.tensor([0.0, 1.0, 2.0, 4.0, 101.0]), 1.0)  # median 2
    assert found.tolist() == pytest.approx([1, 1, 1, math.exp(-1), math.exp(-49.5)])
    assert gate(torch.tensor([1.0, 1.0, 2.0]), 0.5)[2] == pytest.approx(math.exp(-2))
    assert gate(torch.zeros(3), 1.0).tolist() == [1, 1, 1]


# --- z_smooth


def walk(jump: Tensor | float = 0.0, end: int | None = None, at: int = 6) -> Rollout:
    """One window of 12 rows whose z moves by 1 (odd steps by 1.2), and by `jump` more between rows at-1 and at."""
    z = torch.zeros(1, 12, 2)
    z[0, :, 0] = torch.tensor([1.0, 1.2] * 6).cumsum(0)
    after = (torch.arange(12) >= at).float()[None, :, None]
    z = z + after * (jump * torch.tensor([0.0, 1.0]))
    flags = torch.zeros(1, 12, dtype=torch.bool)
    last, first = flags.clone(), flags.clone()
    if end is not None:
        last[0, end], first[0, end + 1] = True, True
    batch = Batch({}, torch.zeros(1, 12, 5), torch.zeros(1, 12), first, last, flags)
    return Rollout(batch, {"z": z, "z_hat": z[:, 1:].detach() + 0.1})


def pull(jump: float, **settings: Any) -> float:
    """d loss / d jump: what the teleport's two ends are drawn together with; nothing else depends on it."""
    leaf = torch.tensor(jump, requires_grad=True)
    return float(torch.autograd.grad(SMOOTH(NONE, walk(leaf), Smooth(**settings)), leaf)[0])


def test_the_ends_of_a_pipe_are_not_drawn_together() -> None:
    assert pull(40.0) == 0, "truncated: exactly nothing"
    assert pull(40.0, gate=False) == 0, "truncated: exactly nothing"
    bound = 1 / 11  # one step of eleven, slope at most 1 per tau, tau = 1
    for rho in ("huber", "charbonnier"):
        near, far = pull(40.0, rho=rho, gate=False), pull(4000.0, rho=rho, gate=False)
        assert 0 < near <= bound * 1.001, f"{rho}: bounded"
        assert far == pytest.approx(near, rel=1e-3), f"{rho}: bounded"
    squared = 2 * 40.0 / 11
    assert pull(40.0, rho="huber", gate=False) < squared / 50


def test_surprise_fades_what_pull_is_left() -> None:
    leaf = torch.tensor(40.0, requires_grad=True)
    roll = walk(leaf)
    surprised = roll.fields["z_hat"].clone()
    surprised[0, 5] += 10.0
    roll = Rollout(roll.batch, {"z": roll.fields["z"], "z_hat": surprised})
    loss = SMOOTH(NONE, roll, Smooth(rho="huber"))
    assert float(torch.autograd.grad(loss, leaf)[0]) < 1e-6 < pull(40.0, rho="huber")


@pytest.mark.parametrize("rho", ["huber", "charbonnier", "truncated"])
def test_an_ordinary_step_is_smoothed_against_the_median_step(rho: str) -> None:
    """Value and gradient against the formula, with tau a plain number (1: the smaller of two middle steps)."""
    roll = walk(0.5)
    z = roll.fields["z"].double().requires_grad_()
    roll = Rollout(roll.batch, {"z": z, "z_hat": z[:, 1:].detach() + 0.1})
    d = (z[0, 1:] - z[0, :-1]).square().sum(-1).sqrt()
    tau = sorted(d.tolist())[5]
    cfg = Smooth(rho=rho, gate=False)  # pyright: ignore[reportArgumentType]
    expected = penalty(d / tau, cfg).mean()
    ours = SMOOTH(NONE, roll, cfg)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(torch.autograd.grad(ours, z), torch.autograd.grad(expected, z), strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_over_an_episodes_end_counts_for_nothing() -> None:
    leaf = torch.tensor(0.7, requires_grad=True)
    loss = SMOOTH(NONE, walk(leaf, end=5), Smooth(rho="huber", gate=False))
    assert float(torch.autograd.grad(loss, leaf)[0]) == 0
    torch.testing.assert_close(loss, SMOOTH(NONE, walk(99.0, end=5), Smooth(rho="huber", gate=False)))


def test_a_scene_that_stands_still_is_no_fault() -> None:
    roll = walk()
    z = torch.ones(1, 12, 2, requires_grad=True)
    loss = SMOOTH(NONE, Rollout(roll.batch, {"z": z, "z_hat": z[:, 1:].detach()}), Smooth())
    assert loss.item() < 1e-6
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


# --- displacement_rank


def seen() -> tuple[Batch, Tensor]:
    """A batch of real frames, and the place of the box in each, (N, 2) px."""
    batch = windows(1)[0]
    return batch, centre_of_mass(as_float(batch.obs["image"]).flatten(0, 1))[0]


def test_an_isometric_z_costs_nothing_and_a_shuffled_one_does() -> None:
    batch, where = seen()
    turn = torch.linalg.qr(torch.randn(8, 2, generator=generator()))[0]
    z = (3.7 * where @ turn.T + 5).unflatten(0, (6, 12))
    straight = Displacement(power=1.0, frames=72)
    assert RANK(NONE, Rollout(batch, {"z": z}, generator()), straight) < 1e-4
    mixed = z.flatten(0, 1)[torch.randperm(72, generator=generator())].unflatten(0, (6, 12))
    assert RANK(NONE, Rollout(batch, {"z": mixed}, generator()), straight) > 0.3
    assert RANK(NONE, Rollout(batch, {"z": torch.zeros(6, 12, 8)}, generator())).isfinite()


def test_root_of_displacement_is_a_euclidean_distance() -> None:
    """Classical scaling of the bent distances costs nothing under the default power."""
    batch, where = seen()
    shift = torch.cdist(where.double(), where.double())
    centre = torch.eye(72, dtype=torch.float64) - 1 / 72
    values, vectors = torch.linalg.eigh(-0.5 * centre @ shift @ centre)  # squared distances = displacement
    assert values.min() > -1e-6 * values.max()  # Schoenberg: it embeds
    z = (vectors * values.clamp_min(0).sqrt()).float().unflatten(0, (6, 12))
    cfg = Displacement(power=0.5, frames=72)
    assert RANK(NONE, Rollout(batch, {"z": z}, generator()), cfg) < 1e-3


def test_displacement_rank_formula_and_gradient() -> None:
    batch, _ = seen()
    z = torch.randn(6, 12, 8, generator=generator(), dtype=torch.float64, requires_grad=True)
    cfg = Displacement(triplets=50, frames=30, slope=0.6, power=0.7)
    ours = RANK(NONE, Rollout(batch, {"z": z}, generator(9)), cfg)
    rng = generator(9)
    pick = torch.randperm(72, generator=rng)[:30]
    i, j, k = torch.randint(30, (3, 50), generator=rng)
    flat = z.flatten(0, 1)[pick]
    where = centre_of_mass(as_float(batch.obs["image"].flatten(0, 1)[pick]))[0].double()
    near, far = (flat[i] - flat[j]).norm(dim=-1), (flat[i] - flat[k]).norm(dim=-1)
    s_near, s_far = (where[i] - where[j]).norm(dim=-1) ** 0.7, (where[i] - where[k]).norm(dim=-1) ** 0.7
    unit = near.mean().item()
    rate, costs = unit / s_near.mean().item(), []
    for m in range(50):
        if s_near[m] < s_far[m]:
            costs.append(torch.relu(0.6 * rate * (s_far[m] - s_near[m]) + near[m] - far[m]))
        elif s_near[m] > s_far[m]:
            costs.append(torch.relu(0.6 * rate * (s_near[m] - s_far[m]) + far[m] - near[m]))
    expected = torch.stack(costs).sum() / 50 / unit
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        torch.autograd.grad(ours, z)[0], torch.autograd.grad(expected, z)[0], atol=1e-5, rtol=1e-3
    )


def test_it_looks_at_pixels_alone() -> None:
    """The same frames with other actions, rewards and flags: the same loss."""
    batch, where = seen()
    z = torch.randn(6, 12, 8, generator=generator())
    other = batch.replace(action=batch.action.flip(0), reward=batch.reward + 1, last=~batch.last)
    assert RANK(NONE, Rollout(batch, {"z": z}, generator())) == RANK(NONE, Rollout(other, {"z": z}, generator()))


# --- displacement_read


class Ruled(torch.nn.Module):
    """A model that owns a ruler and nothing else."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.displacement_head, self.displacement_head_h = (torch.nn.Linear(size, 2, bias=False) for _ in range(2))


def test_a_z_that_keeps_place_plainly_is_read_without_error() -> None:
    batch, where = seen()
    turn = torch.linalg.qr(torch.randn(8, 2, generator=generator()))[0]  # (8, 2), orthonormal columns
    model = Ruled(8)
    with torch.no_grad():
        model.displacement_head.weight.copy_(turn.T / 10)
    z = (where @ turn.T + 3).unflatten(0, (6, 12))
    assert READ(model, Rollout(batch, {"z": z}, generator())) < 1e-6
    assert READ(model, Rollout(batch, {"z": z.flip(0)}, generator())) > 1


def test_displacement_read_is_its_formula() -> None:
    batch, _ = seen()
    model = Ruled(8).double()
    z = torch.randn(6, 12, 8, generator=generator(), dtype=torch.float64)
    ours = READ(model, Rollout(batch, {"z": z}, generator(9)), DisplacementRead(frames=31, eps=1.5))
    pick = torch.randperm(72, generator=generator(9))[:31]
    where = centre_of_mass(as_float(batch.obs["image"].flatten(0, 1)[pick]))[0].double()
    flat, costs = z.flatten(0, 1)[pick], []
    for i in range(15):
        read = 10 * model.displacement_head.weight @ (flat[15 + i] - flat[i])
        off = (read - (where[15 + i] - where[i])).norm().item()
        costs.append(math.hypot(off, 1.5) - 1.5)
    assert ours.item() == pytest.approx(sum(costs) / 15, rel=1e-5)


# --- motion_read


def test_motion_read_is_its_formula_and_stops_at_episode_ends() -> None:
    batch, _ = seen()
    model = Ruled(8).double()
    h = torch.randn(6, 12, 8, generator=generator(), dtype=torch.float64)
    ours = MOTION(model, Rollout(batch, {"h": h}), Motion(rows=4, eps=0.7))
    where = centre_of_mass(as_float(batch.obs["image"][:4].flatten(0, 1)))[0].double().unflatten(0, (4, 12))
    costs = []
    for b in range(4):
        for t in range(11):
            if not (batch.last[b, t] or batch.first[b, t + 1]):
                read = 10 * model.displacement_head_h.weight @ h[b, t + 1]
                costs.append(math.hypot((read - (where[b, t + 1] - where[b, t])).norm().item(), 0.7) - 0.7)
    assert 0 < len(costs) < 44  # some windows cross an episode's end
    assert ours.item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_a_belief_that_knows_the_motion_costs_nothing() -> None:
    batch, where = seen()
    moved = torch.nn.functional.pad(where.unflatten(0, (6, 12)).diff(dim=1), (0, 0, 1, 0))  # (6, 12, 2), known before
    model = Ruled(2)
    with torch.no_grad():
        model.displacement_head_h.weight.copy_(torch.eye(2) / 10)
    assert MOTION(model, Rollout(batch, {"h": moved}), Motion(rows=6)) < 1e-6
    assert MOTION(model, Rollout(batch, {"h": -moved}), Motion(rows=6)) > 0.1
