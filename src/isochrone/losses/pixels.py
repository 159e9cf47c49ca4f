"""Hardness-weighted pixel losses: so that small objects on a plain background are not ignored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.gradient import stop_gradient
from isochrone.core.tensors import as_float
from isochrone.core.types import Rollout
from isochrone.losses.loss import loss
from isochrone.losses.reductions import masked_mean


@dataclass(frozen=True)
class Boxes:
    """The pyramid: `scales` levels, each halving the image; level s has weight `decay`^s."""

    scales: int = option(3, "levels of the pyramid", ge=1, le=6)
    decay: float = option(0.5, "weight of a level against the one below", gt=0)
    beta: float = option(1.0, "sharpness of the hardness weight", ge=0)
    cap: float = option(4.0, "largest hardness weight", ge=1)
    min_local_mean: float = option(
        0.25, "lower bound of the local mean of the error; 1e-6 makes the loss an L1 on black", gt=0
    )
    box: int = option(9, "side of the local mean, in pixels of the level", ge=3, le=511)


@lru_cache(maxsize=32)
def _box_rows(size: int, box: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "S S"]:
    """Row i averages the entries within box // 2 of i."""
    at = torch.arange(size, device=device)
    near = ((at[:, None] - at).abs() <= box // 2).to(dtype)
    return near / near.sum(1, keepdim=True)


def local_mean(x: Float[Tensor, "N C Y X"], box: int) -> Float[Tensor, "N C Y X"]:
    """Mean over a box around each pixel, pixels outside left out.

    A box is separable: one banded matrix per axis, several times as fast as a sliding pool on a CPU.
    """
    along_y, along_x = (_box_rows(size, box, x.dtype, x.device) for size in x.shape[-2:])
    return along_y @ (x @ along_x.T)


def coarser(x: Float[Tensor, "N C Y X"]) -> Float[Tensor, "N C y x"]:
    """Mean over 2 x 2 pixels; an odd last row or column is left out."""
    y, x_ = (size // 2 * 2 for size in x.shape[-2:])
    rows = x[..., 0:y:2, :x_] + x[..., 1:y:2, :x_]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def multi_box(
    prediction: Float[Tensor, "N C Y X"], target: Float[Tensor, "N C Y X"], settings: Boxes
) -> Float[Tensor, "N"]:
    """sum_s decay^s sum_yx w e, with e = mean_c |prediction - target| at scale s.

    w = min((e / local mean of e)^beta, cap), stopped. Sum over pixels and scales, one number per image.
    """
    total = prediction.new_zeros(prediction.shape[0])
    difference = prediction - target
    for s in range(settings.scales):
        # Pooling is linear, so pooling the difference equals the difference of the pooled images.
        absolute = difference.abs().mean(1, keepdim=True)  # (N, 1, y, x)
        hardness = stop_gradient(absolute, "the weights are constants: the loss must not be lowered by changing them")
        scale = local_mean(hardness, settings.box).clamp_min(settings.min_local_mean)
        weight = (hardness / scale).pow(settings.beta).clamp_max(settings.cap)
        total = total + settings.decay**s * (weight * absolute).sum((1, 2, 3))
        if s + 1 < settings.scales:
            difference = coarser(difference)
    return total


PIXELS: dict[str, Any] = {
    "updates": {"encoder", "decoder"},
    "fewer_updates": {"decoder_detached": {"encoder"}},
    "reads": {"recon", "recon_rows"},
    "settings": Boxes,
}


def decoded(rollout: Rollout) -> Float[Tensor, "B R C Y X"]:
    """The true images of the rows that were decoded."""
    return as_float(rollout.batch.obs["image"].index_select(1, rollout.recon_rows))


@loss("recon_multi_box", source="docs/background.md, Hardness-weighted pixel losses", **PIXELS)
def recon_multi_box(model, rollout, settings) -> Tensor:
    """D(z) against the frame: sum over pixels and scales, mean over the decoded (B, R)."""
    return multi_box(rollout.recon.flatten(0, 1), decoded(rollout).flatten(0, 1), settings).mean()


@loss("pixel_delta_multi_box", source="docs/background.md, Hardness-weighted pixel losses", **PIXELS)
def pixel_delta_multi_box(model, rollout, settings) -> Tensor:
    """D(z')-D(z) against x'-x: sum over pixels and scales, mean over valid neighbours among the decoded rows."""
    target, prediction = decoded(rollout).diff(dim=1), rollout.recon.diff(dim=1)
    error = multi_box(prediction.flatten(0, 1), target.flatten(0, 1), settings).reshape(prediction.shape[:2])
    valid = rollout.batch.connected(1).index_select(1, rollout.recon_rows[:-1])
    return masked_mean(error, valid)


def centre_of_mass(image: Float[Tensor, "N C Y X"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N"]]:
    """(x, y) in pixels of what differs from the mean image of the batch, and its total mass.

    Uses the pixels alone: the mean image is the background, and a pixel's weight is its squared difference from it.
    """
    middle = image.mean(0)
    # A few frames at a time, so that intermediate results stay in the cache.
    away = torch.cat([(few - middle).square_().mean(1) for few in image.split(16)])  # (N, Y, X)
    away = away * (away > 0.25 * away.amax((1, 2), keepdim=True))
    mass = away.sum((1, 2)).clamp_min(1e-6)
    ys = torch.arange(image.shape[2], device=image.device, dtype=image.dtype)
    xs = torch.arange(image.shape[3], device=image.device, dtype=image.dtype)
    x = (away.sum(1) * xs).sum(-1) / mass
    y = (away.sum(2) * ys).sum(-1) / mass
    return torch.stack([x, y], -1), mass
