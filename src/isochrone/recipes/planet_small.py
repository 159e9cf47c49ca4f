"""PlaNet made small, for a laptop: the same losses and planner on the white box with a goal."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.envs.whitebox import WhiteBoxConfig
from isochrone.evals.suite import EvalConfig
from isochrone.models.rssm import RssmConfig
from isochrone.objectives.belief import Kl, Pyramid, Scale
from isochrone.recipes.planet import planet
from isochrone.recipes.schema import Config, DataConfig


@register("recipe", "planet_small")
def planet_small() -> Config:
    """A small PlaNet that learns to reach a goal in the white box within 200 episodes of 50 actions."""
    base = planet()
    world = part_config("env", "whitebox:cabin")
    assert isinstance(world, WhiteBoxConfig)
    return replace(
        base,
        recipe="planet_small",
        env=replace(world, task="reach", goal="10,6", episode_length=50),
        # z says what one frame shows, wherever it came from: then the same place has the same z, and the prior can
        # learn the way from z to z as a table
        model=RssmConfig(
            hidden=128,
            deter=128,
            stoch=16,
            norm="layer",
            act="silu",
            posterior="decoupled",
            encoder="patch",
            depth=16,
            embed=128,
            units=128,
            decode=2,
        ),
        # Seeing comes first: seen from afar a small box already pulls, and the posterior is held to its prior gently
        # but to the standard normal as well, or its codes grow until no recurrence can read them.
        loss=base.loss | {"image": 3.0, "kl_global": 0.3},
        term={"image": Pyramid(levels=5), "reward": Scale(100.0), "kl": Kl(rep=0.1, free=1.0)},
        # Half of the episodes are random: those that end early on the goal show little of the way.
        data=DataConfig(lanes=8, rows=12 * 51, capacity=25 * 51, held=0.125, refresh_every=450, refresh_rows=51),
        train=replace(
            base.train,
            steps=6000,
            batch=40,
            length=10,
            lr=4e-3,
            schedule="cosine",
            warmup=50,
            save_every=500,
            eval_every=0,
        ),
        planner=replace(base.planner, candidates=200, iterations=3, elites=20, floor=0.02, repeat=3.0, returns="best"),
        mpc=replace(base.mpc, explore=0.3, noise=0.0),
        eval=EvalConfig(pairs=0, episodes=64, length=51, horizon=16, returns=64),
    )
