"""The z/h/p model with the losses that work best here (the evidence is in docs/evidence.md).

zhp with belief and pose losses reaching the encoder: the attached JEPA.

zhp where one frame does not show everything: longer windows, a larger belief, and most of the time to learn it.

The losses that the notes (seeds/002) enable by default, with the notes' weights and the corrected definitions.

The notes' literal pose, the running sum of its own steps: a negative control that is refused unless forced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from isochrone.agents.mpc import MPC
from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.losses.reach import Bellman, Reach
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


@register("recipe", "zhp_attached")
def zhp_attached() -> Config:
    """zhp with detach_z_from_h_and_p off: prediction and pose shape z too; vicreg keeps it from collapsing."""
    base = zhp()
    model = replace(base.model, detach_z_from_h_and_p=False)
    train = replace(base.train, lr=1e-3, lr_scale=(), clip=100.0)
    # everything moves z, so all at once
    return replace(base, recipe="zhp_attached", model=model, after={}, until={}, train=train)


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


@register("recipe", "zhp_running_sum")
def zhp_running_sum() -> Config:
    """Negative control: zhp_seed002 with p as the sum of its own steps; needs --force."""
    base = zhp_seed002()
    return replace(base, recipe="zhp_running_sum", model=replace(base.model, pose="running_sum"))
