"""Robust, gated smoothness of z; and distances in z ordered by visible displacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.config import option
from isochrone.core.gradient import stop_gradient
from isochrone.core.tensors import as_float, rng_kwargs
from isochrone.core.types import Rollout
from isochrone.losses.loss import loss
from isochrone.losses.pixels import centre_of_mass
from isochrone.losses.reductions import Robust, charbonnier, huber, masked_mean, norm, robust, sse, truncated


@dataclass(frozen=True)
class Smooth:
    """The penalty on d_t / tau, tau the batch's median step."""

    rho: Literal["huber", "charbonnier", "truncated"] = option("truncated", "truncated ignores jumps altogether")
    delta: float = option(1.0, "where huber turns linear", gt=0)
    eps: float = option(0.1, "charbonnier: length below which it is quadratic", gt=0)
    cap: float = option(4.0, "value at which truncated is constant", gt=0)
    gate: bool = option(True, "lower the weight where the prediction error is large")
    gate_scale: float = option(1.0, "excess of the error, in medians, at which the weight is 1/e", gt=0)


def penalty(d: Float[Tensor, "*B"], settings: Smooth) -> Float[Tensor, "*B"]:
    """rho(d), the robust penalty."""
    if settings.rho == "huber":
        return huber(d, settings.delta)
    return charbonnier(d, settings.eps) if settings.rho == "charbonnier" else truncated(d, settings.cap)


def gate(error: Float[Tensor, "*B"], scale: float) -> Float[Tensor, "*B"]:
    """exp(-(e - median e)_+ / (scale * median e)), in 0..1."""
    middle = error.median()
    return torch.exp(-(error - middle).clamp_min(0) / (scale * middle).clamp_min(1e-8))


@loss(
    "z_smooth",
    updates={"encoder"},
    reads={"z", "z_hat"},
    constant={"z_hat"},
    source="docs/background.md, Robust smoothness",
    settings=Smooth,
)
def z_smooth(model, rollout, settings) -> Tensor:
    """mean_t g_t rho(|z' - z| / tau): 0 across episode ends, less after prediction errors. Needs vicreg."""
    step = norm(rollout.z.diff(dim=1))  # (B, T-1)
    valid = rollout.batch.connected(1)
    moving = valid & (step > 1e-3)
    tau = (
        stop_gradient(step, "the unit of smoothness is measured, not learned")[moving].median()
        if bool(moving.any())
        else step.new_ones(())
    )
    cost = penalty(step / tau.clamp_min(1e-6), settings)
    if settings.gate:
        error = sse(rollout.z_hat, rollout.z[:, 1:])
        cost = cost * gate(stop_gradient(error, "the gate does not train the predictor"), settings.gate_scale)
    return masked_mean(cost, valid)


def sample_frames(rollout: Rollout, frames: int) -> tuple[Float[Tensor, "N Z"], Float[Tensor, "N 2"]]:
    """z of random frames of the batch, and the centre of mass of what moves in each, (x, y) in pixels."""
    index = torch.randperm(rollout.z.shape[0] * rollout.z.shape[1], **rng_kwargs(rollout.rng))[:frames].to(
        rollout.z.device
    )
    position, _ = centre_of_mass(as_float(rollout.batch.obs["image"].flatten(0, 1)[index]))
    return rollout.z.flatten(0, 1)[index], position


@dataclass(frozen=True)
class Displacement:
    """Triplets per batch, and the required slope."""

    triplets: int = option(2048, "random triplets of frames per batch", ge=1, le=1_048_576)
    frames: int = option(64, "frames per batch that they are sampled from", ge=3, le=65_536)
    power: float = option(
        0.5, "z distance grows as displacement^power: below 1 keeps near frames distinguishable", gt=0, le=1
    )
    slope: float = option(
        1.0, "required difference of z distance per pixel, as a multiple of the mean of the batch", gt=0
    )


@loss(
    "displacement_rank",
    updates={"encoder"},
    reads={"z"},
    source="docs/background.md, Perceptual similarity",
    settings=Displacement,
)
def displacement_rank(model, rollout, settings) -> Tensor:
    """Of two frames, the one with the smaller displacement (centre of mass, from pixels alone) must be nearer in z.

    Hinge relu(slope * rate * (s_ik - s_ij) + d_ij - d_ik), rate = mean d / mean s of the batch (stopped), divided by
    the batch's mean d: in units of a typical distance. Mean over triplets.
    """
    z, position = sample_frames(rollout, settings.frames)
    i, j, k = torch.randint(len(z), (3, settings.triplets), **rng_kwargs(rollout.rng)).to(z.device)
    near, far = norm(z[i] - z[j]), norm(z[i] - z[k])  # (M,)
    shift_near, shift_far = (
        norm(position[i] - position[j]).pow(settings.power),
        norm(position[i] - position[k]).pow(settings.power),
    )
    unit = stop_gradient(near.mean(), "the unit of length is measured, not learned").clamp_min(1e-6)
    rate = unit / shift_near.mean().clamp_min(1e-6)
    sign = torch.sign(shift_far - shift_near)
    margin = settings.slope * rate * (shift_far - shift_near).abs()
    return (torch.relu(margin - sign * (far - near)) * sign.abs()).mean() / unit


def displacement_error(
    head: nn.Module, latent: Float[Tensor, "*B F"], displacement: Float[Tensor, "*B 2"], settings: Robust
) -> Float[Tensor, "*B"]:
    """Robust length of the error of a displacement read by `head`, in units of ten pixels."""
    return robust(10 * head(latent) - displacement, settings)


@dataclass(frozen=True)
class DisplacementRead(Robust):
    """Pairs per batch, and the length below which the error is squared."""

    frames: int = option(128, "frames per batch; each is compared with one other", ge=2, le=65_536)
    eps: float = option(2.0, "error in pixels at which its cost turns from its square to its size", gt=0)


@loss(
    "displacement_read",
    updates={"encoder", "displacement_head"},
    reads={"z"},
    uses={"model.displacement_head"},
    source="docs/background.md, Perceptual similarity",
    settings=DisplacementRead,
)
def displacement_read(model, rollout, settings) -> Tensor:
    """The displacement between two frames (centre of mass, from pixels alone) is linear in z' - z: 10 W (z' - z).

    Charbonnier of the error's length in pixels, mean over pairs. displacement_rank fixes only the order of distances.
    """
    z, position = sample_frames(rollout, settings.frames)
    half = len(z) // 2
    return displacement_error(
        model.displacement_head, z[half : 2 * half] - z[:half], position[half : 2 * half] - position[:half], settings
    ).mean()


@dataclass(frozen=True)
class Motion(Robust):
    """Windows per batch, and the length below which the error is squared."""

    rows: int = option(16, "windows per batch whose motion is measured", ge=1, le=65_536)
    eps: float = option(1.0, "error in pixels at which its cost turns from its square to its size", gt=0)


@loss(
    "motion_read",
    updates={"displacement_head_h", "predictor", "z2h"},
    extra_updates={"encoder_attached": {"encoder"}},
    reads={"h"},
    uses={"model.displacement_head_h"},
    source="docs/background.md, Perceptual similarity",
    settings=Motion,
)
def motion_read(model, rollout, settings) -> Tensor:
    """The motion from one frame to the next is linear in the h that predicts it: 10 W h_{t+1}, pixels.

    Centre of mass, from pixels alone. Charbonnier of the error's length, mean over valid steps of some windows.
    """
    frames = rollout.batch.obs["image"][: settings.rows]  # (R, T, C, Y, X); windows come in random order
    position, _ = centre_of_mass(as_float(frames.flatten(0, 1)))
    displacement = position.unflatten(0, frames.shape[:2]).diff(dim=1)  # (R, T-1, 2)
    error = displacement_error(model.displacement_head_h, rollout.h[: settings.rows, 1:], displacement, settings)
    return masked_mean(error, rollout.batch.connected(1)[: settings.rows])
