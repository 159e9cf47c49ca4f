"""A first result in a minute: a small model of a small world, rough but real."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.evals.suite import EvalConfig
from isochrone.objectives.reach import Bellman, Reach
from isochrone.recipes.schema import Config, DataConfig
from isochrone.recipes.zhp import zhp

SEEING = {"recon_multi_box": 1.0, "displacement_rank": 20.0}
KNOWING = {"jepa": 1.0, "h2z": 1.0, "z2h": 1.0, "reach_p": 0.1, "bellman_p": 10.0, "additivity_dp": 0.1}
TURN = 0.2  # share of the training that belongs to z


@register("recipe", "tiny")
def tiny() -> Config:
    """zhp made small: a cabin with a pipe, trained, measured, planned in and reported within a minute."""
    base = zhp()
    return replace(
        base,
        recipe="tiny",
        env=part_config("env", "whitebox:cabin"),
        model=replace(base.model, z=16, h=64, p=32, hidden=128, open_loop=4),
        loss=SEEING | KNOWING,
        until=dict.fromkeys(SEEING, TURN),
        after=dict.fromkeys(KNOWING, TURN),
        term={
            "reach_p": Reach(multiplier=1000.0, slack=0.05, price_rate=0.2),
            "bellman_p": Bellman(pairs=64),
        },
        data=DataConfig(lanes=32, rows=300),
        train=replace(
            base.train,
            steps=800,
            batch=16,
            length=8,
            lr=3e-3,
            lr_scale=("encoder:2", "decoder:2"),
            warmup=10,
            eval_every=0,
            save_every=400,
            log_every=50,
        ),
        planner=replace(base.planner, expansions=64),
        compare=(),
        eval=EvalConfig(episodes=16, length=32, pairs=50, horizon=8),
        finish=("eval", "plan", "report"),
    )
