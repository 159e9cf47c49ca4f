"""Dreamer v1's world model (Hafner et al. 2020), planned in by CEM. (spec/statespace 3.1)

Dreamer v2's world model (Hafner et al. 2021), as for DMC, planned in by CEM. (spec/statespace 3.1)

Dreamer v3's world model (Hafner et al. 2023, size S), planned in by CEM. (spec/statespace 1.2 and 3.1)
"""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.losses.elbo import Kl
from isochrone.models.statespace import RssmConfig
from isochrone.recipes.planet import planet
from isochrone.recipes.schema import Config


@register("recipe", "dreamer_v1")
def dreamer_v1() -> Config:
    """Gaussian z of 30, h of 200, one-sided KL with 3 free nats on its mean, Adam 6e-4."""
    base = planet()
    return replace(
        base,
        recipe="dreamer_v1",
        model=RssmConfig(act="elu", units=400, layers=2),
        term={"kl": Kl(free=3.0, averaged=True)},
        train=replace(base.train, lr=6e-4, eps=1e-7, clip=100.0),
    )


@register("recipe", "dreamer_v2")
def dreamer_v2() -> Config:
    """32 x 32 classes, LayerNorm-GRU of 200, KL balance 0.8 with 1 free nat on its mean, AdamW 3e-4."""
    base = planet()
    return replace(
        base,
        recipe="dreamer_v2",
        model=RssmConfig(
            stoch=32, classes=32, unimix=0.0, cell="ln_gru", act="elu", depth=48, units=400, layers=4, encoder="planet"
        ),
        loss=base.loss | {"continue": 1.0},
        term={"kl": Kl(dyn=0.8, rep=0.2, free=1.0, averaged=True)},
        train=replace(base.train, lr=3e-4, eps=1e-5, clip=100.0, weight_decay=1e-6),
    )


SIZE_S = RssmConfig(
    deter=512,
    hidden=512,
    stoch=32,
    classes=32,
    cell="ln_gru",
    norm="layer",
    act="silu",
    initial="learned",
    encoder="dreamer",
    depth=32,
    units=512,
    reward="symlog_two_hot",
)
"""As dreamerv3-torch: 5.8 M weights between embedding and features."""

SIZE_12M = replace(SIZE_S, deter=2048, hidden=256, classes=16, cell="block_gru", norm="rms", initial="zeros", units=256)
SIZE_12M = replace(SIZE_12M, reward="symexp_two_hot")
"""The block GRU of 2025: 8 blocks of 256."""


@register("recipe", "dreamer_v3")
def dreamer_v3() -> Config:
    """32 x 32 classes with 1 % unimix, LayerNorm-GRU of 512, two-hot rewards, KL 0.5 and 0.1 with 1 free nat a row."""
    base = planet()
    return replace(
        base,
        recipe="dreamer_v3",
        model=SIZE_S,
        loss=base.loss | {"image": 2.0, "continue": 1.0},  # v3 sums squared errors without the half
        term={"kl": Kl(dyn=0.5, rep=0.1, free=1.0)},
        train=replace(base.train, lr=1e-4, eps=1e-8, clip=1000.0, batch=16, length=64),
    )
