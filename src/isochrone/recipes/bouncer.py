"""A small RSSM of the bouncer, an environment with two possible futures; --model rnn or ssm is its ablation."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import component_config
from isochrone.envs.bouncer import BouncerConfig
from isochrone.evals.context import EvalConfig
from isochrone.losses.elbo import Kl
from isochrone.losses.loss import LossConfig
from isochrone.models.statespace import RssmConfig
from isochrone.recipes.planet import planet_small
from isochrone.recipes.schema import Config, DataConfig, recipe


@recipe
def bouncer() -> Config:
    """A ball that goes left or right at random (with --env bouncer:memory, as a lamp showed): are both predicted?"""
    base = planet_small()
    env = component_config("env", "bouncer:split")
    assert isinstance(env, BouncerConfig)
    return replace(
        base,
        env=replace(env, episode_length=12, speed=8),
        model=RssmConfig(
            hidden=128,
            deter=128,
            stoch=8,
            norm="layer",
            act="silu",
            encoder="patch",
            depth=16,
            embed=128,
            head_units=64,
            decode_rows=6,
        ),
        # a heavier image loss makes the posterior so narrow that imagined z leave its support
        loss={"image": LossConfig(0.2), "kl": LossConfig(settings=Kl(free=0.0))},
        data=DataConfig(num_envs=64, rows=130),
        optim={"model": replace(base.optim["model"], lr=2e-3)},
        train=replace(base.train, steps=3000, batch=12, length=13, save_every=1000, eval_every=0),
        agent=replace(base.agent, explore=0.2),  # set here, so that tuning planet_small does not change these results
        eval=EvalConfig(pairs=0, episodes=64, length=13, horizon=8),
        then=("eval", "report"),
    )
