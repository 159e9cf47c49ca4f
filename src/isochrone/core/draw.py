"""Where random numbers are drawn: on their generator's own device, which a GPU's generator insists on."""

from __future__ import annotations

from typing import Any

import torch


def by(rng: torch.Generator | None) -> dict[str, Any]:
    """Keywords for torch's drawing functions: torch.rand(3, **by(rng)). None: torch's own generator, on the CPU."""
    return {} if rng is None else {"generator": rng, "device": rng.device}
