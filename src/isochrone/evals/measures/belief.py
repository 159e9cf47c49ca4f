"""What does h know? Velocity, yes; how long the window has run, no."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth
from isochrone.evals.model_access import encode, filtered, flat, fresh, generator, needs, numpy
from isochrone.evals.probe import r2, ridge
from isochrone.evals.stats import bootstrap_mean


@register("metric", "belief")
@needs("encode_image", "update", "step")
@torch.no_grad()
def belief(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """Clock probe, velocity probe (worlds with momentum), and what forgetting costs."""
    states = filtered(model, batch, truth.spec.action)
    if not hasattr(states, "h"):
        return {}
    h, z = numpy(states.h), numpy(states.z)  # (B, T, D), (B, T, Z)
    train = np.arange(len(h)) < (2 * len(h) + 2) // 3  # whole episodes on one side of the split
    out = _clock(h, batch, truth, train) | _velocity(z, h, truth, batch, train)
    return out | _forgetting(model, batch, truth, states, rng)


def _age(batch: Batch) -> np.ndarray:
    """Rows since the belief began (B, T)."""
    age = np.zeros(batch.shape, int)
    first = numpy(batch.first) > 0
    for t in range(1, batch.shape[1]):
        age[:, t] = np.where(first[:, t], 0, age[:, t - 1] + 1)
    return age


def _clock(h: np.ndarray, batch: Batch, truth: Truth, train: np.ndarray) -> dict[str, Any]:
    """Held-out ridge R^2 of t from h, within places: both lose their mean over the training rows at the same place.

    Where one is says something about how long one has walked; taking the place's own mean away leaves the clock.
    Rows 0 are left out: h_0 is a function of the first frame by definition.
    """
    age = _age(batch)
    place = np.unique(np.round(numpy(truth.position).reshape(-1, 2), 2), axis=0, return_inverse=True)[1].reshape(
        age.shape
    )
    keep = age > 0
    side = np.broadcast_to(train[:, None], age.shape)[keep]
    x, t, where = h[keep], age[keep].astype(float), place[keep]
    raw = _held_out(x, t[:, None], side, "the clock probe")
    visits = np.bincount(where[side], minlength=where.max() + 1)
    known = visits[where] >= 2
    x, t, where, side = x[known], t[known], where[known], side[known]
    within = _held_out(_centred(x, where, side), _centred(t[:, None], where, side), side, "the clock probe")
    return {f"clock_r2{k}": v for k, v in within.items()} | {f"clock_r2_raw{k}": v for k, v in raw.items()}


def _centred(x: np.ndarray, group: np.ndarray, train: np.ndarray) -> np.ndarray:
    """x minus the mean of its group over the training rows."""
    total = np.zeros((group.max() + 1 if len(group) else 0, x.shape[1]))
    np.add.at(total, group[train], x[train])
    count = np.bincount(group[train], minlength=len(total))[:, None]
    return x - (total / np.maximum(count, 1))[group]


def _held_out(x: np.ndarray, y: np.ndarray, train: np.ndarray, what: str) -> dict[str, Any]:
    """{'': R^2} clipped below at -1, or {'.refused': why}."""
    if train.all() or not train.any():
        return {".refused": f"{what} needs at least 2 recorded episodes"}
    try:
        fit = ridge(x[train], y[train], what)
    except UserError as error:
        return {".refused": str(error)}
    return {"": max(-1.0, r2(y[~train], fit(x[~train])))}


def _velocity(z: np.ndarray, h: np.ndarray, truth: Truth, batch: Batch, train: np.ndarray) -> dict[str, Any]:
    """Held-out ridge R^2 of the hidden velocity from (z, h) and from z alone; nothing without momentum."""
    velocity, keep = numpy(truth.velocity), _age(batch) > 0
    if velocity[keep].size == 0 or float(velocity[keep].var()) < 1e-9:
        return {}
    side = np.broadcast_to(train[:, None], keep.shape)[keep]
    out: dict[str, Any] = {}
    for name, x in (("velocity_r2", np.concatenate([z, h], -1)), ("velocity_r2_z", z)):
        for key, value in _held_out(x[keep], velocity[keep], side, "the velocity probe").items():
            out[name + key] = value
    if "velocity_r2" in out and "velocity_r2_z" in out:
        out["velocity_r2.floor"] = out["velocity_r2_z"]
    return out


def _forgetting(model: Any, batch: Batch, truth: Truth, states: Any, rng: torch.Generator) -> dict[str, Any]:
    """One-step error of z with the carried belief, and with h reset at each frame, over the error of standing still."""
    action = truth.spec.action
    images = batch.obs["image"]
    target = encode(model, images[:, 1:].flatten(0, 1))
    moves = batch.action[:, :-1].flatten(0, 1).to(target.device)
    # The first rows carry nothing yet; they would dilute the comparison.
    keep = (batch.connected(1) & torch.from_numpy(_age(batch)[:, :-1] > 0)).flatten().to(target.device)
    before = flat(states[:, :-1])
    reset = fresh(model, images[:, :-1].flatten(0, 1), action)
    still = numpy((before.z - target).norm(dim=-1)[keep])
    carried = numpy((model.step(before, moves).z - target).norm(dim=-1)[keep])
    forgot = numpy((model.step(reset, moves).z - target).norm(dim=-1)[keep])
    scale = max(float(still.mean()), 1e-12) if still.size else 1.0
    if not still.size:
        return {}
    return {
        "step_error": float(carried.mean() / scale),
        "step_error.interval": bootstrap_mean(carried / scale, generator(rng), 400),
        "step_error.floor": 1.0,
        "step_error_reset": float(forgot.mean() / scale),
    }
