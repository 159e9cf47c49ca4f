"""A small RSSM of the bouncer, the world of two futures; --model rnn or ssm shows what each half is for."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import part_config
from isochrone.core.registry import register
from isochrone.envs.bouncer import BouncerConfig
from isochrone.evals.suite import EvalConfig
from isochrone.losses.elbo import Kl
from isochrone.models.statespace import RssmConfig
from isochrone.recipes.planet import planet_small
from isochrone.recipes.schema import Config, DataConfig


@register("recipe", "bouncer")
def bouncer() -> Config:
    """A ball that goes left or right by chance (--env bouncer:memory: as a lamp has said): can the model tell?"""
    base = planet_small()
    world = part_config("env", "bouncer:split")
    assert isinstance(world, BouncerConfig)
    return replace(
        base,
        recipe="bouncer",
        env=replace(world, episode_length=12, speed=8),
        model=RssmConfig(
            hidden=128,
            deter=128,
            stoch=8,
            norm="layer",
            act="silu",
            encoder="patch",
            depth=16,
            embed=128,
            units=64,
            decode=6,
        ),
        # Against a heavier image the posterior is told so narrowly that imagined z soon lies between all that were seen
        loss={"image": 0.2, "kl": 1.0},
        term={"kl": Kl(free=0.0)},
        data=DataConfig(lanes=64, rows=130),
        train=replace(
            base.train, steps=3000, batch=12, length=13, lr=2e-3, schedule="cosine", save_every=1000, eval_every=0
        ),
        mpc=replace(base.mpc, explore=0.2),  # its own, so that tuning how to reach goals leaves these results alone
        eval=EvalConfig(pairs=0, episodes=64, length=13, horizon=8),
        finish=("eval", "report"),
    )
