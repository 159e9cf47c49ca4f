"""The world models of Dreamer v1 (Hafner et al. 2020), v2 (2021) and v3 (2023), with CEM in place of an actor."""

from __future__ import annotations

from dataclasses import replace

from isochrone.losses.elbo import Kl
from isochrone.losses.loss import LossConfig
from isochrone.models.statespace import RssmConfig
from isochrone.recipes.planet import planet
from isochrone.recipes.schema import Config, recipe


@recipe
def dreamer_v1() -> Config:
    """Dreamer v1: Gaussian z of size 30, h of size 200, KL with 3 free nats on its batch mean, Adam 6e-4."""
    base = planet()
    return replace(
        base,
        model=RssmConfig(act="elu", head_units=400, head_layers=2),
        loss={
            "image": LossConfig(),
            "reward": LossConfig(),
            "kl": LossConfig(settings=Kl(free=3.0, averaged=True)),
        },
        optim={"model": replace(base.optim["model"], lr=6e-4, eps=1e-7, clip=100.0)},
    )


@recipe
def dreamer_v2() -> Config:
    """Dreamer v2 for DMC: 32 x 32 classes, LayerNorm-GRU of 200, KL balance 0.8 with 1 free nat, AdamW 3e-4."""
    base = planet()
    return replace(
        base,
        model=RssmConfig(
            stoch=32,
            classes=32,
            unimix=0.0,
            cell="ln_gru",
            act="elu",
            depth=48,
            head_units=400,
            head_layers=4,
            encoder="planet",
        ),
        loss={
            "image": LossConfig(),
            "reward": LossConfig(),
            "kl": LossConfig(settings=Kl(dyn=0.8, rep=0.2, free=1.0, averaged=True)),
            "continue": LossConfig(),
        },
        optim={"model": replace(base.optim["model"], lr=3e-4, eps=1e-5, clip=100.0, weight_decay=1e-6)},
    )


SIZE_S = RssmConfig(
    deter=512,
    hidden=512,
    stoch=32,
    classes=32,
    cell="ln_gru",
    norm="layer",
    act="silu",
    initial_state="learned",
    encoder="dreamer",
    depth=32,
    head_units=512,
    reward="symlog_two_hot",
)
"""Size S of dreamerv3-torch: 5.8 M weights between embedding and features."""

SIZE_12M = replace(
    SIZE_S,
    deter=2048,
    hidden=256,
    classes=16,
    cell="block_gru",
    norm="rms",
    initial_state="zeros",
    head_units=256,
    reward="symexp_two_hot",
)
"""Size 12M of Dreamer v3 (2025): a block GRU of 8 blocks of 256."""


@recipe
def dreamer_v3() -> Config:
    """Dreamer v3, size S: 32 x 32 classes, 1 % unimix, GRU of 512, two-hot reward, KL 0.5 and 0.1, 1 free nat a row."""
    base = planet()
    return replace(
        base,
        model=SIZE_S,
        loss={
            "image": LossConfig(2.0),  # v3 sums squared errors without the half
            "reward": LossConfig(),
            "kl": LossConfig(settings=Kl(dyn=0.5, rep=0.1, free=1.0)),
            "continue": LossConfig(),
        },
        optim={"model": replace(base.optim["model"], lr=1e-4, eps=1e-8)},
        train=replace(base.train, batch=16, length=64),
    )
