"""The notes' literal pose, the running sum of its own steps: a negative control that is refused unless forced."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.recipes.schema import Config
from isochrone.recipes.zhp_seed002 import zhp_seed002


@register("recipe", "zhp_running_sum")
def zhp_running_sum() -> Config:
    """Negative control: zhp_seed002 with p as the sum of its own steps; needs --force."""
    base = zhp_seed002()
    return replace(base, recipe="zhp_running_sum", model=replace(base.model, pose="running_sum"))
