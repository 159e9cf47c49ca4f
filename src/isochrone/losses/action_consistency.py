"""Losses on the effect of an action: on h, and on the pose (odometry)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from isochrone.core.config import option
from isochrone.core.gradient import frozen, stop_gradient
from isochrone.losses.loss import loss
from isochrone.losses.reductions import Robust, masked_mean, robust, sse

ATTACHED_H = {"encoder_attached": {"encoder"}}
ATTACHED_P = {"encoder_attached": {"encoder", "pose"}, "predictor_attached": {"predictor", "z2h"}}
SUMMED = "with pose=summed p is the sum of the steps, so this loss is zero whatever the weights"


@dataclass(frozen=True)
class ActionDelta:
    """Which side of the equation is stopped."""

    hold: Literal["change", "state"] = option(
        "change", "the stopped side; with neither stopped, a constant change would be a minimum"
    )


@loss(
    "action_delta_h",
    updates={"delta_h", "predictor", "z2h"},
    extra_updates=ATTACHED_H,
    reads={"h"},
    uses={"model.delta_h"},
    source="docs/background.md, The original losses",
    settings=ActionDelta,
)
def action_delta_h(model, rollout, settings) -> Tensor:
    """Ah(h, a) against h' - h: sum over D, mean over valid (B, T-1)."""
    before, change = rollout.h[:, :-1], rollout.h.diff(dim=1)
    if settings.hold == "change":
        change = stop_gradient(change, "the change is the target")
    else:
        before = stop_gradient(before, "the state is the target")
    prediction = model.delta_h(torch.cat([before, rollout.batch.action[:, :-1]], -1))
    return masked_mean(sse(prediction, change), rollout.batch.connected(1))


@loss(
    "inverse_dynamics_h",
    updates={"inverse_h", "predictor", "z2h"},
    extra_updates=ATTACHED_H,
    reads={"z_in", "h"},
    uses={"model.z2h", "model.inverse.h"},
    source="docs/background.md, The original losses",
)
def inverse_dynamics_h(model, rollout, settings) -> Tensor:
    """The action from (h_t, Zh(z_{t+1})): cross-entropy, or squared error summed over A; mean over valid rows."""
    after = model.z2h(rollout.z_in[:, 1:])
    prediction = model.inverse["h"](torch.cat([rollout.h[:, :-1], after], -1))
    return masked_mean(
        action_error(prediction, rollout.batch.action[:, :-1], model.action.discrete), rollout.batch.connected(1)
    )


def action_error(prediction: Tensor, action: Tensor, discrete: bool) -> Tensor:
    """(B, T) error of a predicted action: cross-entropy of logits against one-hot, or summed squares."""
    if discrete:
        return -(F.log_softmax(prediction, -1) * action).sum(-1)
    return sse(prediction, action)


@loss(
    "action_delta_dp",
    updates={"delta_p", "prototypes_p"},
    extra_updates=ATTACHED_P,
    reads={"dp"},
    uses={"model.prototypes.p"},
    source="docs/background.md, The original losses",
    settings=Robust,
)
def action_delta_dp(model, rollout, settings) -> Tensor:
    """|dp - e_p(a)| through charbonnier: one number per step, mean over valid (B, T-1)."""
    prototype = rollout.batch.action[:, :-1] @ model.prototypes["p"]  # (B, T-1, P)
    return masked_mean(robust(rollout.dp - prototype, settings), rollout.batch.connected(1))


@loss(
    "additivity_dp",
    updates={"delta_p"},
    extra_updates=ATTACHED_P,
    reads={"h", "p", "dp"},
    uses={"model.odometry"},
    constant={"h", "p"},
    fewer_constant={"encoder_attached": {"p"}, "predictor_attached": {"h"}},
    source="docs/background.md, The original losses",
    settings=Robust,
    undefined_in={"summed_pose": SUMMED},
)
def additivity_dp(model, rollout, settings) -> Tensor:
    """dp_t + G(p_t + dp_t, h_{t+1}, a_{t+1}) against measured p_{t+2} - p_t: robust length, mean over (B, T-2)."""
    half = rollout.p[:, :-2] + rollout.dp[:, :-1]
    second = model.odometry(half, rollout.h[:, 1:-1], rollout.batch.action[:, 1:-1])
    target = stop_gradient(rollout.p[:, 2:] - rollout.p[:, :-2], "the measured pose is the target")
    error = robust(rollout.dp[:, :-1] + second - target, settings)
    return masked_mean(error, rollout.batch.connected(2))


@dataclass(frozen=True)
class Steps(Robust):
    """The longest sum, and the length below which the error is squared."""

    steps: int = option(8, "K: sums of 2..K steps are compared", ge=2, le=65_536)


@loss(
    "rollout_kstep_p",
    updates={"delta_p", "pose"},
    extra_updates=ATTACHED_P,
    fewer_updates={"summed_pose": {"pose"}},
    reads={"p", "dp"},
    source="docs/background.md, The original losses",
    settings=Steps,
    undefined_in={"summed_pose": SUMMED},
)
def rollout_kstep_p(model, rollout, settings) -> Tensor:
    """p_t + sum_{i<k} dp_{t+i} against the measured p_{t+k}, k = 2..K: robust length, mean over valid (t, k)."""
    path = torch.cat([torch.zeros_like(rollout.dp[:, :1]), rollout.dp.cumsum(1)], 1)  # (B, T, P)
    offset = rollout.p - path  # constant along an episode when odometry and pose agree
    longest = min(settings.steps, offset.shape[1] - 1)
    errors = [robust(offset[:, k:] - offset[:, :-k], settings) for k in range(2, longest + 1)]
    valid = [rollout.batch.connected(k) for k in range(2, longest + 1)]
    return masked_mean(torch.cat(errors, 1), torch.cat(valid, 1))


@dataclass(frozen=True)
class TrimmedMean:
    """The trimmed mean of the step lengths."""

    trim: float = option(0.1, "fraction of the steps left out at either end", ge=0, lt=0.5)


@loss(
    "scale_dp",
    updates={"delta_p"},
    extra_updates=ATTACHED_P,
    reads={"p", "dp"},
    uses={"model.metric"},
    constant={"p"},
    source="docs/background.md, The original losses",
    settings=TrimmedMean,
)
def scale_dp(model, rollout, settings) -> Tensor:
    """(trimmed mean of d_p(p, p + dp) over steps whose frame changed - 1)^2: one action is the unit."""
    images = rollout.batch.obs["image"].flatten(2)
    moving = (images[:, 1:] != images[:, :-1]).any(-1) & rollout.batch.connected(1)  # (B, T-1)
    start = stop_gradient(rollout.p[:, :-1], "only the step is trained, not its start")
    size = frozen(model.metric)(start, start + rollout.dp)
    count = int(moving.sum())
    if count == 0:
        return size.sum() * 0
    cut = int(settings.trim * count)
    trimmed = size[moving].sort().values[cut : count - cut]
    return (trimmed.mean() - 1).square()
