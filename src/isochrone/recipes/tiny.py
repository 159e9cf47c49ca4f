"""A first result within a minute: a small model of a small map."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import component_config
from isochrone.evals.context import EvalConfig
from isochrone.losses.loss import LossConfig
from isochrone.losses.reach import Bellman, Reach
from isochrone.recipes.schema import Config, DataConfig, recipe
from isochrone.recipes.zhp import staged, zhp

ENCODER_LOSSES = {
    "recon_multi_box": LossConfig(),
    "displacement_rank": LossConfig(20.0),
    "displacement_read": LossConfig(0.5),
}
DYNAMICS_LOSSES = {"jepa": LossConfig(), "h2z": LossConfig(), "z2h": LossConfig()}
POSE_LOSSES = {
    "reach_p": LossConfig(0.1, settings=Reach(multiplier=1000.0, slack=0.05, price_rate=0.2)),
    "bellman_p": LossConfig(10.0, settings=Bellman(pairs=64, near=100.0)),
    "additivity_dp": LossConfig(0.05),
}


@recipe
def tiny() -> Config:
    """A small zhp on a small map with a pipe: trains, evaluates, plans and reports within a minute."""
    base = zhp()
    small = replace(
        base,
        env=component_config("env", "whitebox:cabin"),
        model=replace(base.model, z=16, h=64, p=32, hidden=128, fourier=256),
        data=DataConfig(num_envs=32, rows=300),
        optim={"model": replace(base.optim["model"], warmup=10)},
        train=replace(base.train, steps=1300, batch=40, save_every=400, log_every=50),
        agent=replace(base.agent, planner=replace(base.agent.planner, expansions=64)),
        compare_planners=(),
        eval=EvalConfig(episodes=16, length=32, pairs=50, horizon=8),
        then=("eval", "plan", "report"),
    )
    return staged(small, (ENCODER_LOSSES, DYNAMICS_LOSSES, POSE_LOSSES), (0.18, 0.48))
