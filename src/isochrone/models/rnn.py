"""The deterministic model: one future for every belief. (PlaNet, Hafner et al. 2019, eq. 3)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isochrone.core.registry import register
from isochrone.models.belief import StateSpaceConfig
from isochrone.models.statespace import StateSpace


@dataclass(frozen=True)
class RnnConfig(StateSpaceConfig):
    """Options of the RNN; `classes`, `unimix` and `floor` have no meaning here."""

    name: ClassVar[str] = "rnn"


@register("model", "rnn")
class RNN(StateSpace):
    """z is a point: what the frame says when it is seen, what memory expects of it when it is not.

    Its "KL" is half the squared distance between the two, so the same losses train all three kinds.
    """

    Config = RnnConfig
    stochastic = False
