"""Where random numbers are drawn: on their generator's own device, which a GPU's generator insists on.

Images are uint8 (C, Y, X) until the encoder, floats in 0..1 behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def rng_kwargs(rng: torch.Generator | None) -> dict[str, Any]:
    """Keyword arguments of torch.rand and the like: torch.rand(3, **rng_kwargs(rng)). None: the global generator."""
    return {} if rng is None else {"generator": rng, "device": rng.device}


def as_float(image: Tensor) -> Float[Tensor, "... C Y X"]:
    """uint8 0..255 -> float 0..1; floats pass unchanged."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def to_uint8(image: Float[Tensor, "... C Y X"]) -> UInt8[Tensor, "... C Y X"]:
    """0..1 floats -> 0..255, rounded and clamped."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
