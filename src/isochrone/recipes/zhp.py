"""The z/h/p model with the losses that work best here (the evidence is in docs/evidence.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from isochrone.agents.mpc import MPC
from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.objectives.reach import Bellman, Reach
from isochrone.recipes.schema import Config, DataConfig
from isochrone.train.config import TrainConfig

SEEING = {"recon_multi_box": 0.3, "vicreg": 0.02, "displacement_rank": 20.0, "displacement_read": 0.5}
BELIEVING = {"jepa": 1.0, "h2z": 1.0, "z2h": 1.0, "h_start": 0.1, "rollout_kstep_z": 1.0}
REACHING = {
    "reach_p": 0.1,
    "bellman_p": 10.0,
    "additivity_dp": 0.05,
    "rollout_kstep_p": 0.05,
    "scale_dp": 0.05,
}


def staged(config: Config, stages: Sequence[Mapping[str, float]], ends: Sequence[float]) -> Config:
    """`config` with the losses of `stages` one stage after the other; `ends`: the shares at which all but the last end.

    With the default detach no stage moves what an earlier one has learned, so each stands on firm ground, and a step
    costs only what its own stage needs.
    """
    loss, after, until = {}, {}, {}
    for weights, begin, end in zip(stages, (0.0, *ends), (*ends, 1.0), strict=True):
        loss |= weights
        after |= dict.fromkeys(weights, begin) if begin else {}
        until |= dict.fromkeys(weights, end) if end < 1 else {}
    return replace(config, loss=loss, after=after, until=until)


@register("recipe", "zhp")
def zhp() -> Config:
    """z sees, h believes, p counts actions: our best, on the map with pipes."""
    config = Config(
        recipe="zhp",
        env=part_config("env", "whitebox:pipes"),
        term={
            "reach_p": Reach(multiplier=1000.0, slack=0.05, price_rate=0.2, reach=45.0, keep=0.5),
            "bellman_p": Bellman(near=100.0, keep=0.5),
        },
        data=DataConfig(lanes=64, rows=700),
        mpc=MPC.Config(replan_every=2),
        train=TrainConfig(
            steps=5400,
            batch=107,  # many short windows: neighbours in time are neighbours in place, and say little new
            length=3,
            lr=4e-3,
            lr_scale=("encoder:0.5", "decoder:0.5", "ruler:0.5", "pose:0.75", "delta_p:0.75", "dual:0.75"),
            warmup=50,
            schedule="cosine",
            clip=0.0,  # a rare door pulls hard, and should; the guard stops what explodes
            betas=(0.9, 0.99),
            eval_every=0,
            save_every=500,
        ),
    )
    return staged(config, (SEEING, BELIEVING, REACHING), (0.11, 0.39))
