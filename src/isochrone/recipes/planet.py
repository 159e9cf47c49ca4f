"""PlaNet as published: an RSSM learned from pixels, and CEM in its belief. (Hafner et al. 2019; spec/statespace 2)

PlaNet made small, for a laptop: the same losses and planner on the white box with a goal.
"""

from __future__ import annotations

from dataclasses import replace

from isochrone.agents.mpc import MPC
from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.envs.whitebox import WhiteBoxConfig
from isochrone.evals.suite import EvalConfig
from isochrone.losses.elbo import Kl, Pyramid, Scale
from isochrone.models.statespace import RssmConfig
from isochrone.planners.cem import CEM
from isochrone.recipes.schema import Config, DataConfig
from isochrone.train.config import TrainConfig


@register("recipe", "planet")
def planet() -> Config:
    """PlaNet at the paper's size, for episodes of 125 actions (cartpole): up to 1000 of them, one every 100 updates."""
    world = part_config("env", "whitebox:empty")  # needs no simulator; the paper's is --env dmc:cartpole-swingup
    assert isinstance(world, WhiteBoxConfig)
    return Config(
        recipe="planet",
        env=replace(world, task="reach", actions="continuous", episode_length=125),
        model=RssmConfig(act="relu", bits=5, units=300, layers=3),
        loss={"image": 1.0, "reward": 1.0, "kl": 1.0},
        term={"reward": Scale(10.0), "kl": Kl(free=3.0)},
        data=DataConfig(
            lanes=2,  # the second is the test set: as many episodes, never trained on
            rows=5 * 126,
            capacity=1000 * 126,
            budget_mb=4000,
            held=0.5,
            refresh_every=100,
            refresh_rows=126,
        ),
        train=TrainConfig(steps=100_000, batch=50, length=50, lr=1e-3, eps=1e-4, clip=1000.0, save_every=2000),
        planner=CEM.Config(
            horizon=12, candidates=1000, iterations=10, elites=100, momentum=0.0, std=1.0, floor=0.0, returns="mean"
        ),
        mpc=MPC.Config(space="reward", warm=False, explore=0.0, noise=0.3),
        compare=(),
        eval=EvalConfig(pairs=0, episodes=32, length=50, horizon=40, returns=10),
        finish=("eval", "report"),
    )


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
