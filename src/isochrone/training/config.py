"""Training configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isochrone.core.config import option


@dataclass(frozen=True)
class TrainConfig:
    """How long, on what, how often. Every `*_every` counts optimiser steps."""

    steps: int = option(20_000, "optimiser steps in all", ge=1)
    batch: int = option(32, "windows in a batch", ge=1, le=65_536)
    length: int = option(16, "rows in a window", ge=2, le=65_536)
    divergence_factor: float = option(1000.0, "stop when the loss is this many times its running median", gt=1)
    seed: int = option(0, "seed of all random numbers", ge=0)
    threads: int = option(1, "CPU threads of torch in this process", ge=1, le=256)
    accelerator: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute; auto takes a GPU if there is one")
    device: int = option(0, "which GPU, where there are several", ge=0, le=1023)
    precision: Literal["32-true", "bf16-mixed"] = option("32-true", "float32 throughout, or bfloat16 where it is safe")
    log_every: int = option(50, "steps between rows of metrics", ge=1)
    eval_every: int = option(0, "steps between evaluations; 0: none", ge=0)
    save_every: int = option(1000, "steps between checkpoints; 0: only at the start and the end", ge=0)
    keep: int = option(2, "checkpoints to keep", ge=1, le=1000)
