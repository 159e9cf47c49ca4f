"""The z/h/p model with the losses that work best here (the evidence is in docs/evidence.md)."""

from __future__ import annotations

from isochrone.agents.mpc import MPC
from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.objectives.reach import Bellman, Reach
from isochrone.recipes.schema import Config, DataConfig
from isochrone.train.config import TrainConfig

# z is learned first and then holds still: with the default detach nothing else moves the encoder, and belief and pose
# learn several times faster on firm ground, at half the cost per step.
SEEING = {"recon_multi_box": 0.3, "vicreg": 0.02, "displacement_rank": 20.0}
KNOWING = {
    "jepa": 1.0,
    "h2z": 1.0,
    "z2h": 1.0,
    "rollout_kstep_z": 1.0,
    "reach_p": 0.1,
    "bellman_p": 10.0,
    "additivity_dp": 0.05,
    "rollout_kstep_p": 0.05,
    "scale_dp": 0.05,
}
TURN = 0.18  # share of the training that belongs to z
SURE = 0.3  # Bellman's equation is taught on imagined steps: not before they lead somewhere


@register("recipe", "zhp")
def zhp() -> Config:
    """z sees, h believes, p counts actions: our best, on the map with pipes."""
    return Config(
        recipe="zhp",
        env=part_config("env", "whitebox:pipes"),
        loss=SEEING | KNOWING,
        until=dict.fromkeys(SEEING, TURN),
        after=dict.fromkeys(KNOWING, TURN) | {"bellman_p": SURE},
        term={
            "reach_p": Reach(multiplier=1000.0, slack=0.05, price_rate=0.2, keep=0.5),
            "bellman_p": Bellman(keep=0.5),
        },
        data=DataConfig(lanes=64, rows=700),
        mpc=MPC.Config(replan_every=2),
        train=TrainConfig(
            steps=4600,
            batch=32,
            length=10,
            lr=1e-3,
            lr_scale=("encoder:2", "decoder:2"),
            warmup=50,
            schedule="cosine",
            clip=100.0,
            betas=(0.9, 0.99),
            eval_every=0,
            save_every=500,
        ),
    )
