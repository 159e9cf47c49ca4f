"""PlaNet (Hafner et al. 2019): an RSSM learned from pixels and CEM in its latent state; as published, and small."""

from __future__ import annotations

from dataclasses import replace

from isochrone.agents.mpc import MPC
from isochrone.core.config import component_config
from isochrone.envs.whitebox import WhiteBoxConfig
from isochrone.evals.context import EvalConfig
from isochrone.losses.elbo import Kl, Pyramid, Scale
from isochrone.losses.loss import LossConfig
from isochrone.models.statespace import RssmConfig
from isochrone.planners.cem import CEM
from isochrone.recipes.schema import Config, DataConfig, recipe
from isochrone.training.config import TrainConfig
from isochrone.training.optim import OptimConfig


@recipe
def planet() -> Config:
    """PlaNet at the paper's size: up to 1000 episodes of 125 actions (as cartpole), one more every 100 updates."""
    env = component_config("env", "whitebox:empty")  # needs no simulator; the paper uses --env dmc:cartpole-swingup
    assert isinstance(env, WhiteBoxConfig)
    return Config(
        env=replace(env, task="reach", actions="continuous", episode_length=125),
        model=RssmConfig(act="relu", image_bits=5, head_units=300, head_layers=3),
        loss={
            "image": LossConfig(),
            "reward": LossConfig(settings=Scale(10.0)),
            "kl": LossConfig(settings=Kl(free=3.0)),
        },
        data=DataConfig(
            num_envs=2,  # the second is the test set: as many episodes, never trained on
            rows=5 * 126,
            capacity=1000 * 126,
            budget_mb=4000,
            holdout_fraction=0.5,
            collect_every=100,
            collect_steps=126,
        ),
        optim={"model": OptimConfig(lr=1e-3, eps=1e-4, clip=1000.0)},
        train=TrainConfig(steps=100_000, batch=50, length=50, save_every=2000),
        agent=MPC.Config(
            CEM.Config(
                horizon=12,
                candidates=1000,
                iterations=10,
                elites=100,
                momentum=0.0,
                std=1.0,
                min_spread=0.0,
                output="mean",
            ),
            objective="reward",
            warm=False,
            explore=0.0,
            noise=0.3,
        ),
        compare_planners=(),
        eval=EvalConfig(pairs=0, episodes=32, length=50, horizon=40, return_episodes=10),
        then=("eval", "report"),
    )


@recipe
def planet_small() -> Config:
    """PlaNet for a laptop: learns to reach a goal in the white box within 200 episodes of 50 actions."""
    base = planet()
    env = component_config("env", "whitebox:cabin")
    assert isinstance(env, WhiteBoxConfig)
    return replace(
        base,
        env=replace(env, task="reach", goal="10,6", episode_length=50),
        # a posterior that does not depend on h: the same place always has the same z, so the prior only has to learn
        # which z follows which
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
            head_units=128,
            decode_rows=2,
        ),
        # The image loss dominates and compares coarser levels too (a gradient even without overlap); the posterior is
        # tied weakly to its prior, and also to the standard normal, or z grows until the GRU cannot read it.
        loss={
            "image": LossConfig(3.0, settings=Pyramid(levels=5)),
            "reward": LossConfig(settings=Scale(100.0)),
            "kl": LossConfig(settings=Kl(rep=0.1, free=1.0)),
            "kl_global": LossConfig(0.3),
        },
        # Half of the episodes are random: those that end early at the goal show little of the map.
        data=DataConfig(
            num_envs=8, rows=12 * 51, capacity=25 * 51, holdout_fraction=0.125, collect_every=450, collect_steps=51
        ),
        optim={"model": replace(base.optim["model"], lr=4e-3, schedule="cosine", warmup=50)},
        train=replace(
            base.train,
            steps=6000,
            batch=40,
            length=10,
            save_every=500,
            eval_every=0,
        ),
        agent=replace(
            base.agent,
            planner=replace(
                base.agent.planner,
                candidates=200,
                iterations=3,
                elites=20,
                min_spread=0.02,
                hold_steps=3.0,
                output="best",
            ),
            explore=0.3,
            noise=0.0,
        ),
        eval=EvalConfig(pairs=0, episodes=64, length=51, horizon=16, return_episodes=64),
    )
