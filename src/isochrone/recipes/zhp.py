"""The z/h/p model with the losses that work best here (the evidence is in docs/evidence.md)."""

from __future__ import annotations

from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.recipes.schema import Config
from isochrone.train.config import TrainConfig


@register("recipe", "zhp")
def zhp() -> Config:
    """z sees, h believes, p counts actions: our best, on the map with pipes."""
    return Config(
        recipe="zhp",
        env=part_config("env", "whitebox:pipes"),
        loss={
            "recon_multi_box": 0.1,
            "pixel_delta_multi_box": 0.05,
            "jepa": 1.0,
            "h2z": 1.0,
            "z2h": 1.0,
            "rollout_kstep_z": 1.0,
            "vicreg": 0.2,
            "displacement_rank": 2.0,
            "z_smooth": 0.01,
            "reach_p": 1.0,
            "additivity_dp": 0.1,
            "rollout_kstep_p": 0.1,
            "scale_dp": 0.1,
        },
        train=TrainConfig(
            steps=4000,
            batch=16,
            length=16,
            lr=1e-3,
            warmup=100,
            schedule="cosine",
            clip=100.0,
            betas=(0.9, 0.99),
            eval_every=1000,
            save_every=1000,
        ),
    )
