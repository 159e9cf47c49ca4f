"""What a state-space model is told, and what it believes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.types import Struct


@dataclass(frozen=True)
class StateSpaceConfig:
    """Sizes and choices of a state-space model. The presets planet, dreamer_v1, v2 and v3 are recipes."""

    deter: int = option(200, "size of h, the memory (0 in an SSM)", ge=0)
    stoch: int = option(30, "size of z; with classes: number of groups", ge=1)
    classes: int = option(0, "classes per group of z; 0: z is Gaussian", ge=0)
    hidden: int = option(200, "width of the perceptrons inside", ge=4)
    cell: Literal["gru", "ln_gru", "block_gru"] = option("gru", "how h is kept")
    blocks: int = option(8, "blocks of a block_gru", ge=1)
    norm: Literal["none", "layer", "rms"] = option("none", "normalisation inside the perceptrons")
    act: Literal["relu", "elu", "silu", "none"] = option("elu", "their activation")
    unimix: float = option(0.01, "share of even odds in a categorical z", ge=0, lt=1)
    floor: float = option(0.1, "least standard deviation of a Gaussian z", gt=0)
    prior_layers: int = option(1, "hidden layers of the prior", ge=0)
    posterior_layers: int = option(1, "hidden layers of the posterior", ge=1)
    posterior: Literal["coupled", "decoupled"] = option("coupled", "decoupled: q(z | o) does not look at h")
    initial: Literal["zeros", "learned"] = option("zeros", "state before the first frame")
    encoder: Literal["planet", "dreamer", "patch", "conv"] = option("planet", "image networks")
    centre: bool = option(False, "see and show only what differs from the mean frame of the first recordings")
    depth: int = option(32, "channels of the encoder's first layer", ge=4)
    embed: int = option(256, "size of a patch or conv embedding, and of every vector's", ge=4)
    symlog: bool = option(True, "pass vector observations through symlog, in and out")
    bits: int = option(8, "bits of an image that are kept (PlaNet: 5, the rest noise)", ge=1, le=8)
    units: int = option(200, "width of the reward and continue heads", ge=4)
    layers: int = option(2, "their hidden layers, and those of vectors", ge=0)
    reward: Literal["normal", "symlog_two_hot", "symexp_two_hot"] = option("normal", "likelihood of the reward")
    decode: int = option(0, "rows of each window that are decoded in training, drawn anew each time (0: all)", ge=0)
    overshoot: int = option(0, "D: steps imagined from posteriors for the overshooting losses; 0: none", ge=0)
    starts: int = option(0, "posteriors per window that they begin from; 0: every row", ge=0)
    run: Literal["loop", "step", "full"] = option("loop", "torch.compile nothing, the step, or the whole loop")

    def check(self, path: str) -> None:
        """Sizes that must divide. UserError."""
        if self.cell == "block_gru" and self.deter % self.blocks:
            raise UserError(f"{path}deter = {self.deter}: a block_gru needs a multiple of {path}blocks = {self.blocks}")

    def check_window(self, length: int, path: str) -> None:
        """Windows of `length` rows must hold an overshooting rollout. UserError."""
        if self.overshoot >= length:
            raise UserError(
                f"{path}overshoot = {self.overshoot}: windows have only train.length = {length} rows; "
                f"lower it below {length}, or raise train.length"
            )


@dataclass(frozen=True)
class Belief(Struct):
    """(h, z), and whether the row has seen nothing yet."""

    deter: Float[Tensor, "*B D"]
    stoch: Float[Tensor, "*B S"]
    fresh: Bool[Tensor, "*B"]

    def feat(self) -> Float[Tensor, "*B F"]:
        return torch.cat([self.stoch, self.deter], -1)
