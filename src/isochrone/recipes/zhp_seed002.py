"""The losses that the notes (seeds/002) enable by default, with the notes' weights and the corrected definitions."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.recipes.schema import Config
from isochrone.recipes.zhp import zhp

LOSSES = (
    "jepa",
    "recon_multi_box",
    "pixel_delta_multi_box",
    "h2z",
    "z2h",
    "action_delta_h",
    "rollout_kstep_h",
    "rollout_kstep_delta_h",
    "action_delta_dp",
    "additivity_dp",
    "rollout_kstep_p",
    "scale_dp",
    "geometry_rank_p",
    "inverse_dynamics_h",
)


@register("recipe", "zhp_seed002")
def zhp_seed002() -> Config:
    """The notes' list of losses, each with weight 1, on the measured pose."""
    base = zhp()
    return replace(
        base,
        recipe="zhp_seed002",
        model=replace(base.model, open_loop=8, starts=4, decode=4),
        loss=dict.fromkeys(LOSSES, 1.0),
        term={},
        after={},
        until={},
        # first-hit times need windows in which one gets somewhere
        train=replace(base.train, steps=2400, batch=32, length=10, lr=1e-3, lr_scale=(), clip=100.0),
    )
