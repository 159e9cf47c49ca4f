"""Pictures as other libraries store them, turned into (C, Y, X) uint8 of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

MAX_CHANNELS = 32
"""More channels than this are taken for a side of the picture."""
SMALLEST_PICTURE = 16
"""Pixels of the shorter side; an array that looks like a smaller picture holds codes of things, not colours."""


def channel_axis(shape: Sequence[int]) -> int | None:
    """Where the channels of a picture of this shape (three numbers) are: -1 or 0; None if it looks like no picture.

    Last, if there are 1 or 3; else first, if there are 1 or 3; else at the end that is smaller than both sides.
    """
    if shape[-1] in (1, 3):
        return -1
    if shape[0] in (1, 3):
        return 0
    axis = -1 if shape[-1] < shape[0] else 0
    others = shape[:-1] if axis else shape[1:]
    return axis if shape[axis] < min(MAX_CHANNELS + 1, *others) else None


def channels_first(pixels: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "C Y X"]:
    """A picture (Y, X), (Y, X, C) or (C, Y, X), or K of them stacked (K, ...), as (C, Y, X): K C channels."""
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim == 4:
        return np.concatenate([channels_first(frame) for frame in pixels])
    return np.moveaxis(pixels, channel_axis(pixels.shape) or 0, 0)


def is_picture(shape: Sequence[int]) -> bool:
    """Can `channels_first` take an array of this shape?"""
    if len(shape) == 4:
        return shape[0] <= MAX_CHANNELS and is_picture(shape[1:])
    return min(shape, default=0) > 0 and (len(shape) == 2 or (len(shape) == 3 and channel_axis(shape) is not None))


def shrink(image: UInt8[Tensor, "*N C Y X"], size: int) -> UInt8[Tensor, "*N C {size} {size}"]:
    """Images as (..., C, size, size), by area averaging."""
    if tuple(image.shape[-2:]) == (size, size):
        return image.contiguous()
    lead = image.shape[:-3]
    flat = image.reshape(-1, *image.shape[-3:]).float()
    small = torch.nn.functional.interpolate(flat, size=(size, size), mode="area")
    return small.round().clamp(0, 255).to(torch.uint8).reshape(*lead, *small.shape[1:])
