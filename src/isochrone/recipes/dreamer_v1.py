"""Dreamer v1's world model (Hafner et al. 2020), planned in by CEM. (spec/statespace 3.1)"""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.registry import register
from isochrone.models.rssm import RssmConfig
from isochrone.objectives.belief import Kl
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
