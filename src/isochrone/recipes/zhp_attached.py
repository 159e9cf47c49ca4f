"""zhp with belief and pose losses reaching the encoder: the attached JEPA."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.recipes.schema import Config
from isochrone.recipes.zhp import zhp


@register("recipe", "zhp_attached")
def zhp_attached() -> Config:
    """zhp with detach_z_from_h_and_p off: prediction and pose shape z too; vicreg keeps it from collapsing."""
    base = zhp()
    model = replace(base.model, detach_z_from_h_and_p=False)
    train = replace(base.train, lr=1e-3, lr_scale=(), clip=100.0)
    # everything moves z, so all at once
    return replace(base, recipe="zhp_attached", model=model, after={}, until={}, train=train)
