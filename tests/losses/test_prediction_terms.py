"""Prediction losses against loops over windows, rows and steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tinymodel import generator, tiny, windows

from isochrone.core import registry
from isochrone.core.types import Batch, Rollout


def term(name: str) -> Any:
    return registry.get("loss", name)


@pytest.fixture(scope="module")
def rolled() -> tuple[Any, Batch, Rollout]:
    model, batch = tiny(), windows(1)[0]
    return model, batch, model.observe(batch, {"z", "h", "z_hat", "open_loop"}, generator())


def joined(batch: Batch, b: int, t: int, k: int) -> bool:
    return not any(batch.last[b, i] or batch.first[b, i + 1] for i in range(t, t + k))


def robust(error: torch.Tensor, eps: float = 0.5) -> torch.Tensor:
    """sqrt(|e|^2 + eps^2) - eps."""
    return (error.square().sum() + eps**2).sqrt() - eps


def test_jepa(rolled: Any) -> None:
    model, batch, roll = rolled
    costs = [
        robust(model.predict_z(roll.h[b, t + 1]) - roll.z[b, t + 1])
        for b in range(6)
        for t in range(11)
        if joined(batch, b, t, 1)
    ]
    torch.testing.assert_close(term("jepa")(model, roll), torch.stack(costs).mean())


def test_h2z_takes_the_rows_where_belief_starts_and_no_other(rolled: Any) -> None:
    model, batch, roll = rolled
    costs = [
        (model.predict_z(roll.h[b, t]) - roll.z[b, t]).square().sum()
        for b in range(6)
        for t in range(12)
        if t == 0 or batch.first[b, t]
    ]
    assert len(costs) > 6
    torch.testing.assert_close(term("h2z")(model, roll), torch.stack(costs).mean())


def test_z2h(rolled: Any) -> None:
    model, _, roll = rolled
    costs = [(model.predict_z(model.z2h(z)) - z).square().sum() for z in roll.z.flatten(0, 1)]
    torch.testing.assert_close(term("z2h")(model, roll), torch.stack(costs).mean())


def test_h_start_follows_the_running_belief(rolled: Any) -> None:
    model, batch, roll = rolled
    costs = [
        (model.z2h(roll.z[b, t]) - roll.h[b, t]).square().sum().item()
        for b in range(batch.shape[0])
        for t in range(1, batch.shape[1])
        if joined(batch, b, t - 1, 1)
    ]
    assert term("h_start")(model, roll).item() == pytest.approx(sum(costs) / len(costs), rel=1e-4)


@pytest.mark.parametrize("name", ["rollout_kstep_z", "rollout_kstep_h", "rollout_kstep_delta_h"])
def test_open_loop_losses(rolled: Any, name: str) -> None:
    model, batch, roll = rolled
    costs = []
    for b in range(6):
        for s in range(3):
            t = int(roll.open_loop.start[b, s])
            z, h = roll.z[b, t], roll.h[b, t]
            for k in range(1, 5):
                before = h
                h = model.predict(z, h, batch.action[b, t + k - 1])
                z = model.predict_z(h)
                if k == 1 or not joined(batch, b, t, k):
                    continue
                if name == "rollout_kstep_z":
                    error = z - roll.z[b, t + k]
                elif name == "rollout_kstep_h":
                    error = h - roll.h[b, t + k]
                else:
                    error = (h - before) - (roll.h[b, t + k] - roll.h[b, t + k - 1])
                costs.append(robust(error) if name == "rollout_kstep_z" else error.square().sum())
    assert 0 < len(costs) < 6 * 3 * 3, "some rollouts must meet an episode's end"
    torch.testing.assert_close(term(name)(model, roll), torch.stack(costs).mean())


def test_the_first_open_loop_step_repeats_the_teacher(rolled: Any) -> None:
    """Why k = 1 is left out: where no episode ends on the way, it is the taught belief itself."""
    _, _, roll = rolled
    loop = roll.open_loop
    error = (loop.h - loop.target(roll.h)).abs().amax(-1)  # (B, S, K)
    assert error[..., 0][loop.valid[..., 0]].max() < 1e-6 < error[..., 1][loop.valid[..., 1]].max()
