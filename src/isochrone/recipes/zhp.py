"""Recipes of the z/h/p model: the best one, variants of its gradient routes and its pose, and its original losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from isochrone.agents.mpc import MPC
from isochrone.core.config import component_config
from isochrone.losses.loss import LossConfig
from isochrone.losses.reach import Bellman, Reach
from isochrone.recipes.schema import Config, DataConfig, recipe
from isochrone.training.config import TrainConfig
from isochrone.training.optim import OptimConfig

ENCODER_LOSSES = {
    "recon_multi_box": LossConfig(0.3),
    "vicreg": LossConfig(0.02),
    "displacement_rank": LossConfig(20.0),
    "displacement_read": LossConfig(0.5),
}
DYNAMICS_LOSSES = {
    "jepa": LossConfig(),
    "h2z": LossConfig(),
    "z2h": LossConfig(),
    "h_start": LossConfig(0.1),
    "rollout_kstep_z": LossConfig(),
}
POSE_LOSSES = {
    "reach_p": LossConfig(
        0.1, settings=Reach(multiplier=1000.0, slack=0.05, price_rate=0.2, reach=45.0, keep_fraction=0.5)
    ),
    "bellman_p": LossConfig(10.0, settings=Bellman(near=100.0, keep_fraction=0.5)),
    "additivity_dp": LossConfig(0.05),
    "rollout_kstep_p": LossConfig(0.05),
    "scale_dp": LossConfig(0.05),
}


def staged(config: Config, stages: Sequence[Mapping[str, LossConfig]], ends: Sequence[float]) -> Config:
    """`config` with the losses of `stages` active one stage after the other.

    With the default stop-gradients no stage changes the weights that an earlier one trained, and a step only costs what
    its own stage needs.

    Args:
        stages: the losses of each stage.
        ends: progress (fraction of the training) at which each stage but the last ends.
    """
    loss = {}
    for stage, start, stop in zip(stages, (0.0, *ends), (*ends, 1.0), strict=True):
        loss |= {name: replace(entry, start=start, stop=stop) for name, entry in stage.items()}
    return replace(config, loss=loss)


@recipe
def zhp() -> Config:
    """The z/h/p model with the losses that work best (docs/evidence.md), on the map with pipes."""
    config = Config(
        env=component_config("env", "whitebox:pipes"),
        data=DataConfig(num_envs=64, rows=700),
        agent=MPC.Config(replan_every=2),
        optim={
            "model": OptimConfig(
                lr=4e-3,
                lr_scale=(
                    "encoder:0.5",
                    "decoder:0.5",
                    "displacement_head:0.5",
                    "pose:0.75",
                    "delta_p:0.75",
                    "lagrange_log_multiplier:0.75",
                ),
                warmup=50,
                schedule="cosine",
                clip=0.0,  # no clipping: rare one-way doors give legitimately large gradients
                betas=(0.9, 0.99),
            )
        },
        train=TrainConfig(
            steps=5400,
            batch=107,  # many short windows: the frames of one window are close together and add little
            length=3,
            eval_every=0,
            save_every=500,
        ),
    )
    return staged(config, (ENCODER_LOSSES, DYNAMICS_LOSSES, POSE_LOSSES), (0.11, 0.39))


@recipe
def zhp_attached() -> Config:
    """zhp where the prediction and pose losses also train the encoder (attached JEPA); vicreg prevents collapse."""
    base = zhp()
    model = replace(base.model, stop_grad_to_encoder=False)
    optim = {"model": replace(base.optim["model"], lr=1e-3, lr_scale=(), clip=100.0)}
    # every loss moves the encoder, so no stages
    loss = {name: replace(entry, start=0.0, stop=1.0) for name, entry in base.loss.items()}
    return replace(base, model=model, loss=loss, optim=optim)


@recipe
def zhp_hidden() -> Config:
    """zhp for environments with hidden state (velocity, timers): longer windows, larger h, more training of h."""
    base = zhp()
    config = replace(
        base,
        model=replace(base.model, h=256, fourier_h2z=512, frequency_predictor=5.0, open_loop=3, rollout_starts=2),
        train=replace(base.train, steps=4800, batch=40, length=10),
    )
    return staged(
        config, (ENCODER_LOSSES, DYNAMICS_LOSSES | {"motion_read": LossConfig(0.3)}, POSE_LOSSES), (0.1, 0.76)
    )


ORIGINAL_LOSSES = (
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


@recipe
def zhp_original() -> Config:
    """The losses of the original z/h/p design, each with weight 1, on the measured pose."""
    base = zhp()
    return replace(
        base,
        model=replace(base.model, open_loop=8, rollout_starts=4, decode_rows=4),
        loss=dict.fromkeys(ORIGINAL_LOSSES, LossConfig()),
        # first-hit times need windows long enough to get somewhere
        optim={"model": replace(base.optim["model"], lr=1e-3, lr_scale=(), clip=100.0)},
        train=replace(base.train, steps=2400, batch=32, length=10),
    )


@recipe
def zhp_summed_pose() -> Config:
    """Negative control: zhp_original with p as the sum of its own steps; needs --allow-dead-losses."""
    base = zhp_original()
    return replace(base, model=replace(base.model, pose="summed"))
