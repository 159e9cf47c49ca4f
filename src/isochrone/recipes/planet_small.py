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
    world = part_config("env", "whitebox:empty")
    assert isinstance(world, WhiteBoxConfig)
    return replace(
        base,
        recipe="planet_small",
        env=replace(world, task="reach", episode_length=50),
        model=RssmConfig(
            hidden=128, deter=128, stoch=16, act="elu", encoder="patch", depth=16, embed=128, units=128, decode=4
        ),
        term={"reward": Scale(100.0), "kl": Kl(free=1.0)},
        data=DataConfig(lanes=8, rows=5 * 51, capacity=25 * 51, held=0.125, refresh_every=150, refresh_rows=51),
        train=replace(base.train, steps=3000, batch=32, length=26, save_every=300, eval_every=600),
        planner=replace(base.planner, candidates=200, iterations=5, elites=20, floor=0.02),
        eval=EvalConfig(pairs=0, episodes=64, length=51, horizon=16, returns=64),
    )
