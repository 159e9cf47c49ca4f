"""The learning rate at a step, as a multiple of `lr`: a pure function, so resuming needs no state."""

from __future__ import annotations

import math
from dataclasses import replace

from isochrone.train.config import TrainConfig


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
