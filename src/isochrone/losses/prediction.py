"""Losses on the prediction of z: jepa, the two maps between z and h, and open-loop rollouts."""

from __future__ import annotations

import torch
from torch import Tensor

from isochrone.core.gradient import frozen, stop_gradient
from isochrone.losses.loss import loss
from isochrone.losses.reductions import Robust, masked_mean, robust, sse

ATTACHED = {"encoder_attached": {"encoder"}}


@loss(
    "jepa",
    updates={"predictor", "h2z", "z2h"},
    extra_updates=ATTACHED,
    reads={"z", "z_hat"},
    constant={"z"},
    source="docs/background.md, The original losses",
    settings=Robust,
)
def jepa(model, rollout, settings) -> Tensor:
    """Predicted z against the observed z: robust length over Z, mean over valid (B, T-1). The target is stopped."""
    target = stop_gradient(rollout.z[:, 1:], "the target must not follow the prediction")
    return masked_mean(robust(rollout.z_hat - target, settings), rollout.batch.connected(1))


@loss(
    "h2z",
    updates={"h2z", "z2h"},
    extra_updates=ATTACHED,
    reads={"z", "h"},
    uses={"model.predict_z"},
    constant={"z"},
    source="docs/background.md, The original losses",
)
def h2z(model, rollout, settings) -> Tensor:
    """Hz(h) against z where an episode or a window starts: sum over Z, mean over those rows."""
    starts = rollout.batch.first.clone()
    starts[:, 0] = True
    error = sse(model.predict_z(rollout.h[starts]), stop_gradient(rollout.z[starts], "the encoder's z is the target"))
    return error.mean()


@loss(
    "z2h",
    updates={"z2h"},
    reads={"z"},
    uses={"model.z2h", "model.h2z", "model.normalize_z"},
    constant={"z"},
    source="docs/background.md, The original losses",
)
def z2h(model, rollout, settings) -> Tensor:
    """z -> h -> z is the identity, every row: trains the initial h alone. Sum over Z, mean over (B, T)."""
    z = stop_gradient(rollout.z, "the encoder's z is the target")
    return sse(model.normalize_z(frozen(model.h2z)(model.z2h(z))), z).mean()


@loss(
    "h_start",
    updates={"z2h"},
    reads={"z_in", "h"},
    uses={"model.z2h"},
    constant={"z_in", "h"},
    source="docs/background.md, Belief without a clock",
)
def h_start(model, rollout, settings) -> Tensor:
    """Zh(z_t) against the filtered h_t, t > 0: sum over D, mean over valid (B, T-1). Trains the initial h alone."""
    z = stop_gradient(rollout.z_in[:, 1:], "the encoder is not trained by the initial h")
    filtered = stop_gradient(rollout.h[:, 1:], "the filtered h is the target")
    return masked_mean(sse(model.z2h(z), filtered), rollout.batch.connected(1))


def _from_second_step(error: Tensor, valid: Tensor) -> Tensor:
    # k = 1 repeats the teacher-forced step: no error in h, and the jepa loss in z.
    return masked_mean(error[..., 1:], valid[..., 1:])


ROLLOUT_GROUPS = {"predictor", "h2z", "z2h"}


@loss(
    "rollout_kstep_h",
    updates=ROLLOUT_GROUPS,
    extra_updates=ATTACHED,
    reads={"h", "open_loop"},
    constant={"h"},
    source="docs/background.md, The original losses",
)
def rollout_kstep_h(model, rollout, settings) -> Tensor:
    """Imagined h against the teacher-forced one, k = 2..K: sum over D, mean over starts and k."""
    loop = rollout.open_loop
    target = loop.target(stop_gradient(rollout.h, "the teacher-forced h is the target"))
    return _from_second_step(sse(loop.h, target), loop.valid)


@loss(
    "rollout_kstep_delta_h",
    updates=ROLLOUT_GROUPS,
    extra_updates=ATTACHED,
    reads={"h", "open_loop"},
    constant={"h"},
    source="docs/background.md, The original losses",
)
def rollout_kstep_delta_h(model, rollout, settings) -> Tensor:
    """One-step differences of the imagined h against those of the teacher-forced one, k = 2..K: sum over D, mean over
    starts and k. It adds little to rollout_kstep_h: use a small weight.
    """
    loop = rollout.open_loop
    h = stop_gradient(rollout.h, "the teacher-forced h is the target")
    real = torch.cat([loop.origin(h)[:, :, None], loop.target(h)], 2).diff(dim=2)  # (B, S, K, D)
    return masked_mean(sse(loop.h.diff(dim=2), real[:, :, 1:]), loop.valid[..., 1:])


@loss(
    "rollout_kstep_z",
    updates=ROLLOUT_GROUPS,
    extra_updates=ATTACHED,
    reads={"z", "open_loop"},
    constant={"z"},
    source="docs/background.md, The original losses",
    settings=Robust,
)
def rollout_kstep_z(model, rollout, settings) -> Tensor:
    """Imagined z against the observed z, k = 2..K: robust length over Z, mean over starts and k."""
    loop = rollout.open_loop
    target = loop.target(stop_gradient(rollout.z, "the encoder's z is the target"))
    return _from_second_step(robust(loop.z - target, settings), loop.valid)
