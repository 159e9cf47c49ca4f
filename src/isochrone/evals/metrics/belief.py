"""What h encodes: position and velocity should be readable from it, the time since the window began should not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from isochrone.core.errors import UserError
from isochrone.core.protocols import Encodes, GroundTruth
from isochrone.core.types import Batch
from isochrone.evals.context import Context
from isochrone.evals.ground_truth import RecordedTruth
from isochrone.evals.metric import Estimate, Refused, family, metric
from isochrone.evals.metrics.openloop_latent import PREDICT
from isochrone.evals.metrics.openloop_pixels import FORESEE
from isochrone.evals.model_access import (
    encode,
    filtered,
    merge_time,
    numpy,
    single_frame_states,
)
from isochrone.evals.probes import held_out_r2, r2, ridge
from isochrone.evals.stats import ratio_interval

FILTERED = 3
"""Rows of an episode that must have been filtered before a row counts in the probes of `belief_probes`."""


def _training_episodes(count: int) -> Bool[np.ndarray, " B"]:
    """About two thirds of the episodes: whole episodes are on one side of the split."""
    return np.arange(count) < (2 * count + 2) // 3


@family("belief", PREDICT, needs=[Encodes], env=[GroundTruth], draw_order=3)
@metric("belief.step_error", "one-step error, in units of standing still", "{:.3f}", baseline="the box stands still")
@metric("belief.step_error_reset", "… with the state reset at each frame", "{:.3f}")
@metric(
    "belief.velocity_r2",
    "hidden velocity read from (z, h), R²",
    "{:.3f}",
    baseline="hidden velocity from z alone",
    target=">= 0.95",
)
@metric("belief.velocity_r2_z", "hidden velocity read from z alone, R²", "{:.3f}", target="<= 0.2")
@metric("belief.clock_r2", "clock: time since the window began, read from h, R²", "{:.3f}", target="<= 0.1")
@metric("belief.clock_r2_raw", "… without removing the mean of each place", "{:.3f}", detail=True)
@torch.no_grad()
def belief(context: Context) -> dict[str, Any]:
    """Clock probe, velocity probe (environments with momentum), and what resetting h costs."""
    model, batch, truth = context.model, context.rows, context.truth
    states = filtered(model, batch, truth.spec.action)
    h, z = numpy(states.h), numpy(states.z)  # (B, T, D), (B, T, Z)
    train = _training_episodes(len(h))
    out = _clock(h, batch, truth, train) | _velocity(z, h, truth, batch, train)
    return out | _reset(model, batch, truth, states)


def _age(batch: Batch) -> Int[np.ndarray, "B T"]:
    """Rows since the filter started."""
    age = np.zeros(batch.shape, int)
    first = numpy(batch.first) > 0
    for t in range(1, batch.shape[1]):
        age[:, t] = np.where(first[:, t], 0, age[:, t - 1] + 1)
    return age


def _clock(h: Float[np.ndarray, "B T D"], batch: Batch, truth: RecordedTruth, train: np.ndarray) -> dict[str, Any]:
    """Held-out ridge R^2 of t from h, within places: both lose their mean over the training rows at the same place.

    The place is correlated with the time since the start; removing the mean of each place leaves the clock.
    Rows 0 are left out: h_0 is a function of the first frame by definition.
    """
    age = _age(batch)
    place = np.unique(np.round(numpy(truth.position).reshape(-1, 2), 2), axis=0, return_inverse=True)[1].reshape(
        age.shape
    )
    keep = age > 0
    side = np.broadcast_to(train[:, None], age.shape)[keep]
    x, t, where = h[keep], age[keep].astype(float), place[keep]
    raw = held_out_r2(x, t[:, None], side, "the clock probe")
    visits = np.bincount(where[side], minlength=where.max() + 1)
    often = visits[where] >= 2
    x, t, where, side = x[often], t[often], where[often], side[often]
    within = held_out_r2(
        _minus_group_mean(x, where, side), _minus_group_mean(t[:, None], where, side), side, "the clock probe"
    )
    return {"clock_r2": within, "clock_r2_raw": raw}


def _minus_group_mean(x: np.ndarray, group: np.ndarray, train: np.ndarray) -> np.ndarray:
    """x minus the mean of its group over the training rows."""
    total = np.zeros((group.max() + 1 if len(group) else 0, x.shape[1]))
    np.add.at(total, group[train], x[train])
    count = np.bincount(group[train], minlength=len(total))[:, None]
    return x - (total / np.maximum(count, 1))[group]


def _velocity(
    z: Float[np.ndarray, "B T Z"], h: Float[np.ndarray, "B T D"], truth: RecordedTruth, batch: Batch, train: np.ndarray
) -> dict[str, Any]:
    """Held-out ridge R^2 of the hidden velocity from (z, h) and from z alone; nothing without momentum."""
    velocity, keep = numpy(truth.velocity), _age(batch) > 0
    if velocity[keep].size == 0 or float(velocity[keep].var()) < 1e-9:
        return {}
    side = np.broadcast_to(train[:, None], keep.shape)[keep]
    both, alone = (
        held_out_r2(x[keep], velocity[keep], side, "the velocity probe") for x in (np.concatenate([z, h], -1), z)
    )
    if not isinstance(both, Refused) and not isinstance(alone, Refused):
        both = Estimate(both, baseline=alone)
    return {"velocity_r2": both, "velocity_r2_z": alone}


def _reset(model: Any, batch: Batch, truth: RecordedTruth, states: Any) -> dict[str, Any]:
    """One-step error of z from the filtered state, and with h reset at each frame, over the error of standing still."""
    action = truth.spec.action
    images = batch.obs["image"]
    target = encode(model, images[:, 1:].flatten(0, 1))
    actions = batch.action[:, :-1].flatten(0, 1).to(target.device)
    # The first rows remember nothing yet; they would dilute the comparison.
    keep = (batch.connected(1) & torch.from_numpy(_age(batch)[:, :-1] > 0)).flatten().to(target.device)
    before = merge_time(states[:, :-1])
    fresh = single_frame_states(model, images[:, :-1].flatten(0, 1), action)
    standing_still = numpy((before.z - target).norm(dim=-1)[keep])
    remembering = numpy((model.step(before, actions).z - target).norm(dim=-1)[keep])
    forgetting = numpy((model.step(fresh, actions).z - target).norm(dim=-1)[keep])
    if not standing_still.size:
        return {}
    scale = float(standing_still.mean())
    if not scale > 1e-6 * max(1.0, float(target.abs().max())):
        nothing = Refused("z does not change from one frame to the next, so that there is nothing to predict")
        return {"step_error": nothing, "step_error_reset": nothing}
    episode = np.repeat(np.arange(batch.shape[0]), batch.shape[1] - 1)[keep.cpu().numpy()]
    some = np.bincount(episode) > 0
    interval = ratio_interval(*(np.bincount(episode, error)[some] for error in (remembering, standing_still)))
    return {
        "step_error": Estimate(remembering.mean() / scale, interval, 1.0),
        "step_error_reset": float(forgetting.mean() / scale),
    }


@family("belief_probes", FORESEE, needs=["posterior"], env=[GroundTruth], draw_order=6)
@metric(
    "belief_probes.position_error",
    "position read from the belief by a linear probe, error in px",
    baseline="the mean position",
)
@metric(
    "belief_probes.velocity_r2",
    "hidden velocity read from the belief, R²",
    "{:.3f}",
    baseline="the mean velocity",
)
@torch.no_grad()
def belief_probes(context: Context) -> dict[str, Any]:
    """Held-out error of ridge probes on the filtered features: box position in px, hidden velocity as R^2."""
    model, batch, truth = context.model, context.rows, context.truth
    x = numpy(filtered(model, batch, model.action).feat())[:, FILTERED:]  # (B, T, F)
    train = _training_episodes(len(x))

    def fit(y: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """(true, predicted) rows of the held-out episodes."""
        probe = ridge(x[train].reshape(-1, x.shape[-1]), y[train].reshape(-1, 2), what)
        return y[~train].reshape(-1, 2), probe(x[~train].reshape(-1, x.shape[-1]))

    out: dict[str, Any] = {}
    try:
        place = numpy(truth.position)[:, FILTERED:]
        true, predicted = fit(place, "the position probe")
        mean = place[train].reshape(-1, 2).mean(0)
        baseline = float(np.linalg.norm(true - mean, axis=-1).mean())
        out["position_error"] = Estimate(np.linalg.norm(predicted - true, axis=-1).mean(), baseline=baseline)
        velocity = numpy(truth.velocity)[:, FILTERED:]
        if velocity.size and float(velocity.var()) > 1e-9:
            out["velocity_r2"] = Estimate(r2(*fit(velocity, "the velocity probe")), baseline=0.0)
    except UserError as error:
        out["position_error"] = Refused(str(error))
    return out
