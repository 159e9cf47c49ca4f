"""The stochastic state-space model: all that lasts must pass through samples. (PlaNet, Hafner et al. 2019, eq. 2)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isochrone.core.registry import register
from isochrone.models.belief import StateSpaceConfig
from isochrone.models.statespace import StateSpace


@dataclass(frozen=True)
class SsmConfig(StateSpaceConfig):
    """Options of the SSM; `deter`, `cell`, `blocks` and `initial` have no meaning here."""

    name: ClassVar[str] = "ssm"


@register("model", "ssm")
class SSM(StateSpace):
    """z_t ~ p(z_t | z_{t-1}, a_{t-1}), and nothing beside it."""

    Config = SsmConfig
    deterministic = False
