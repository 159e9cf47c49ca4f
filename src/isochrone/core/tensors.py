"""Helpers that every layer needs: random numbers on the generator's device, images as floats, rows by index."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def rng_kwargs(rng: torch.Generator | None) -> dict[str, Any]:
    """Keyword arguments that sample on the generator's own device: torch.rand(3, **rng_kwargs(rng)).

    torch refuses a generator of another device. None: torch's global generator, on the CPU.
    """
    return {} if rng is None else {"generator": rng, "device": rng.device}


def copy_generator(rng: torch.Generator) -> torch.Generator:
    """A generator that will draw the same numbers as `rng`, which stays as it is."""
    copy = torch.Generator(rng.device)
    copy.set_state(rng.get_state())
    return copy


def as_float(image: Tensor) -> Float[Tensor, "... C Y X"]:
    """uint8 0..255 -> float 0..1; floats pass unchanged. Images stay uint8 until an encoder calls this."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def gather_rows(x: Shaped[Tensor, "B T ..."], index: Int[Tensor, "B ..."]) -> Shaped[Tensor, "B ..."]:
    """x[b, index[b, ...]]: x (B, T, ...), index (B, S) or (B, S, K) -> (*index, ...)."""
    rows = torch.arange(x.shape[0], device=x.device).view(-1, *[1] * (index.dim() - 1))
    return x[rows, index]
