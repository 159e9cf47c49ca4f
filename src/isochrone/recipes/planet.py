"""PlaNet as published: an RSSM learned from pixels, and CEM in its belief. (Hafner et al. 2019; spec/statespace 2)"""

from __future__ import annotations

from dataclasses import replace

from isochrone.agents.mpc import MPC
from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.envs.whitebox import WhiteBoxConfig
from isochrone.evals.suite import EvalConfig
from isochrone.models.rssm import RssmConfig
from isochrone.objectives.belief import Kl, Scale
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
