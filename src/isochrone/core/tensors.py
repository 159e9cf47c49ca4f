"""Two helpers that every layer needs: random numbers on the generator's device, and images as floats."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def rng_kwargs(rng: torch.Generator | None) -> dict[str, Any]:
    """Keyword arguments that sample on the generator's own device: torch.rand(3, **rng_kwargs(rng)).

    torch refuses a generator of another device. None: torch's global generator, on the CPU.
    """
    return {} if rng is None else {"generator": rng, "device": rng.device}


def as_float(image: Tensor) -> Float[Tensor, "... C Y X"]:
    """uint8 0..255 -> float 0..1; floats pass unchanged. Images stay uint8 until an encoder calls this."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image
