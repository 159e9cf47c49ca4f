"""What a training run can be told.

The learning rate at a step, as a multiple of `lr`: a pure function, so resuming needs no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from isochrone.core.config import option
from isochrone.core.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, how often. Every `*_every` counts optimiser steps."""

    steps: int = option(20_000, "optimiser steps in all", ge=1)
    batch: int = option(32, "windows in a batch", ge=1)
    length: int = option(16, "rows in a window", ge=2)
    lr: float = option(3e-4, "learning rate after the warm-up", gt=0)
    warmup: int = option(0, "steps over which the learning rate rises from 0", ge=0)
    schedule: Literal["constant", "cosine", "linear"] = option(
        "constant", "how the learning rate falls after the warm-up"
    )
    final_lr: float = option(0.0, "share of lr left at the last step (cosine, linear)", ge=0, le=1)
    lr_scale: tuple[str, ...] = option((), "learning rate per parameter group as a multiple of lr: 'pose:0.1,z2h:2'")
    clip: float = option(1.0, "largest norm of the gradient; 0 turns clipping off", ge=0)
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay", ge=0)
    betas: tuple[float, float] = option((0.9, 0.999), "AdamW's two averages", ge=0, lt=1)
    eps: float = option(1e-8, "AdamW's epsilon", gt=0)
    explode: float = option(1000.0, "stop when the loss is this many times its running median", gt=1)
    seed: int = option(0, "seed of every random draw of the run", ge=0)
    threads: int = option(1, "CPU threads of torch in this process", ge=1)
    accelerator: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute; auto takes a GPU if there is one")
    device: int = option(0, "which GPU, where there are several", ge=0)
    precision: Literal["32-true", "bf16-mixed"] = option("32-true", "float32 throughout, or bfloat16 where it is safe")
    log_every: int = option(50, "steps between rows of metrics", ge=1)
    eval_every: int = option(0, "steps between evaluations; 0: none", ge=0)
    save_every: int = option(1000, "steps between checkpoints; 0: only at the start and the end", ge=0)
    keep: int = option(2, "checkpoints to keep", ge=1)

    def check(self, path: str = "") -> None:
        """Cross-field rules, called by `core.config.validate`. UserError."""
        if self.warmup >= self.steps and self.warmup:
            raise UserError(f"{path}warmup = {self.warmup}: must be less than {path}steps = {self.steps}")
        if not math.isfinite(self.lr):
            raise UserError(f"{path}lr = {self.lr}: must be a finite number")
        scales(self.lr_scale, path)


def scales(entries: tuple[str, ...], path: str = "") -> dict[str, float]:
    """('pose:0.1', 'z2h:2') -> {'pose': 0.1, 'z2h': 2.0}. UserError for anything else, or a negative multiple."""
    found: dict[str, float] = {}
    for entry in entries:
        name, _, text = entry.partition(":")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name or not 0 <= value < math.inf:
            raise UserError(
                f"{path}lr_scale = {entry!r}: must be GROUP:NUMBER with a number of at least 0, such as pose:0.1"
            )
        found[name] = value
    return found


def factor(step: int, config: TrainConfig, span: tuple[float, float] = (0.0, 1.0)) -> float:
    """Multiple of `config.lr` used by the update that makes step `step` (counted from 1) complete.

    `span` is the share of the training in which the weights are moved at all: warm-up and fall are fitted into it, and
    outside it the factor is 0.

    Warm-up: step/warmup, so 1 at step `warmup`. Then constant, or a fall from 1 to `final_lr`, reached at step `steps`:
    cosine `f + (1-f)(1+cos(pi u))/2`, linear `1 - (1-f) u`, u the share of the remaining steps that is done.
    """
    if span != (0.0, 1.0):
        begin = round(span[0] * config.steps)
        length = round(span[1] * config.steps) - begin
        if not 0 < step - begin <= length:
            return 0.0
        config = replace(config, steps=length, warmup=min(config.warmup, length - 1))
        step -= begin
    if step <= config.warmup:
        return step / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    if config.schedule == "linear":
        return 1.0 - (1.0 - config.final_lr) * done
    return config.final_lr + (1.0 - config.final_lr) * 0.5 * (1.0 + math.cos(math.pi * done))
