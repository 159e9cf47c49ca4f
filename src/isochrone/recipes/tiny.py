"""A first result in a minute: a small model of a small world, rough but real."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.evals.suite import EvalConfig
from isochrone.losses.reach import Bellman, Reach
from isochrone.recipes.schema import Config, DataConfig
from isochrone.recipes.zhp import staged, zhp

SEEING = {"recon_multi_box": 1.0, "displacement_rank": 20.0, "displacement_read": 0.5}
BELIEVING = {"jepa": 1.0, "h2z": 1.0, "z2h": 1.0}
REACHING = {"reach_p": 0.1, "bellman_p": 10.0, "additivity_dp": 0.05}


@register("recipe", "tiny")
def tiny() -> Config:
    """zhp made small: a cabin with a pipe, trained, measured, planned in and reported within a minute."""
    base = zhp()
    small = replace(
        base,
        recipe="tiny",
        env=part_config("env", "whitebox:cabin"),
        model=replace(base.model, z=16, h=64, p=32, hidden=128, fourier=256),
        term={
            "reach_p": Reach(multiplier=1000.0, slack=0.05, price_rate=0.2),
            "bellman_p": Bellman(pairs=64, near=100.0),
        },
        data=DataConfig(lanes=32, rows=300),
        train=replace(base.train, steps=1300, batch=40, warmup=10, save_every=400, log_every=50),
        planner=replace(base.planner, expansions=64),
        compare=(),
        eval=EvalConfig(episodes=16, length=32, pairs=50, horizon=8),
        finish=("eval", "plan", "report"),
    )
    return staged(small, (SEEING, BELIEVING, REACHING), (0.18, 0.48))
