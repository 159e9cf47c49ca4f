"""zhp where one frame does not show everything: longer windows, a larger belief, and most of the time to learn it."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.recipes.schema import Config
from isochrone.recipes.zhp import BELIEVING, REACHING, SEEING, staged, zhp


@register("recipe", "zhp_hidden")
def zhp_hidden() -> Config:
    """zhp for worlds with hidden state (velocity, timers): belief gets long windows and two thirds of the training."""
    base = zhp()
    config = replace(
        base,
        recipe="zhp_hidden",
        model=replace(base.model, h=256, fourier_h2z=512, frequency_predictor=5.0, open_loop=3, starts=2),
        train=replace(base.train, steps=4800, batch=40, length=10),
    )
    return staged(config, (SEEING, BELIEVING | {"motion_read": 0.3}, REACHING), (0.1, 0.76))
