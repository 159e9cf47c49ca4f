"""Reductions, stated once: sum over the event, mean over batch and time, rows that cross an episode's end left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isochrone.core.config import option


@dataclass(frozen=True)
class Robust:
    """Settings of a loss that judges an error by its length: squared up to about `eps`, linear beyond.

    A pipe missed by a step is a leap in z, and a one-way door moves p by the whole way back: such errors must not drown
    all others.
    """

    eps: float = option(0.5, "length at which an error's cost turns from its square to its size", gt=0)


def masked_mean(x: Float[Tensor, "*B"], valid: Bool[Tensor, "*B"]) -> Float[Tensor, ""]:
    """Mean over the valid entries; 0 when there are none. What the others hold, NaN included, has no effect."""
    return torch.where(valid, x, 0.0).sum() / valid.sum().clamp_min(1)


def sse(x: Float[Tensor, "*B F"], y: Float[Tensor, "*B F"]) -> Float[Tensor, "*B"]:
    """Squared error summed over the last dimension."""
    return (x - y).square().sum(-1)


def norm(x: Float[Tensor, "*B F"]) -> Float[Tensor, "*B"]:
    """Euclidean norm with a finite gradient at zero."""
    return x.square().sum(-1).add(1e-12).sqrt()


def huber(d: Float[Tensor, "*B"], delta: float) -> Float[Tensor, "*B"]:
    """0.5 d^2 up to delta, delta (|d| - delta/2) beyond."""
    return torch.where(d.abs() <= delta, 0.5 * d.square(), delta * (d.abs() - 0.5 * delta))


def charbonnier(d: Float[Tensor, "*B"], eps: float) -> Float[Tensor, "*B"]:
    """sqrt(d^2 + eps^2) - eps: smooth everywhere, 0 at 0 (Charbonnier, shifted by its constant)."""
    return d.square() / ((d.square() + eps**2).sqrt() + eps)  # the same without cancellation at small d


def truncated(d: Float[Tensor, "*B"], cap: float) -> Float[Tensor, "*B"]:
    """min(d^2, cap): a jump beyond the cap costs the same and pulls at nothing."""
    return d.square().clamp_max(cap)


def robust(error: Float[Tensor, "*B F"], settings: Robust) -> Float[Tensor, "*B"]:
    """charbonnier of the error's length: about its summed square / (2 eps) near 0, its length far out."""
    return charbonnier(norm(error), settings.eps)
