"""The recurrent state-space model: a memory without noise, a sample beside it. (PlaNet, Hafner et al. 2019, eq. 4)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isochrone.core.registry import register
from isochrone.models.belief import StateSpaceConfig
from isochrone.models.statespace import StateSpace


@dataclass(frozen=True)
class RssmConfig(StateSpaceConfig):
    """Options of the RSSM."""

    name: ClassVar[str] = "rssm"


@register("model", "rssm")
class RSSM(StateSpace):
    """h keeps what lasts, z says what may happen."""

    Config = RssmConfig
