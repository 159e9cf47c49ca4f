"""PlaNet made small, for a laptop: the same losses and planner on the white box with a goal."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.envs.whitebox import WhiteBoxConfig
from isochrone.evals.suite import EvalConfig
from isochrone.models.rssm import RssmConfig
from isochrone.objectives.belief import Kl, Scale
from isochrone.recipes.planet import planet
from isochrone.recipes.schema import Config, DataConfig


@register("recipe", "planet_small")
def planet_small() -> Config:
    """A small PlaNet that learns to reach goals in the white box from 200 episodes of 50 actions."""
    base = planet()
    world = part_config("env", "whitebox:cabin")
    assert isinstance(world, WhiteBoxConfig)
    return replace(
        base,
        recipe="planet_small",
        env=replace(world, task="reach", episode_length=50),
        model=RssmConfig(
            hidden=128, deter=128, stoch=16, act="elu", encoder="patch", depth=16, embed=128, units=128, decode=4
        ),
        # A box of 16 pixels is worth 24 nats: it must count for more, or z is drawn to its prior before it is seen.
        loss=base.loss | {"image": 10.0},
        term={"reward": Scale(100.0), "kl": Kl(rep=0.1, free=1.0)},
        data=DataConfig(lanes=8, rows=5 * 51, capacity=25 * 51, held=0.125, refresh_every=150, refresh_rows=51),
        train=replace(base.train, steps=3000, batch=16, length=26, lr=2e-3, save_every=300, eval_every=0),
        planner=replace(base.planner, candidates=200, iterations=3, elites=20, floor=0.02, repeat=3.0, returns="best"),
        mpc=replace(base.mpc, replan_every=2, explore=0.2, noise=0.0),
        eval=EvalConfig(pairs=0, episodes=64, length=51, horizon=16, returns=64),
    )
