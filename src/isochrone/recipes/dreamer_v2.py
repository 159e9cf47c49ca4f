"""Dreamer v2's world model (Hafner et al. 2021), as for DMC, planned in by CEM. (spec/statespace 3.1)"""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.models.rssm import RssmConfig
from isochrone.objectives.belief import Kl
from isochrone.recipes.planet import planet
from isochrone.recipes.schema import Config


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
