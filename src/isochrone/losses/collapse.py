"""VICReg against the collapse of z, with augmentations that keep position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.tensors import as_float, rng_kwargs
from isochrone.losses.loss import loss

KEEPS_POSITION = ("noise", "blur", "brightness", "contrast")
MOVES_THINGS = ("crop", "shift", "translate", "flip", "rotate", "cutout")


@dataclass(frozen=True)
class Vicreg:
    """Weights of the three parts (Bardes et al. 2022, section 4.2), and the augmentations."""

    invariance: float = option(25.0, "two views of one frame agree", ge=0)
    variance: float = option(25.0, "every coordinate of z spreads to 1", ge=0)
    covariance: float = option(1.0, "coordinates do not repeat each other", ge=0)
    augment: tuple[str, ...] = option(KEEPS_POSITION, "any of noise, blur, brightness, contrast")
    rows: int = option(64, "frames per batch, each from another window", ge=2, le=65_536)
    strength: float = option(0.1, "their size, as a fraction of the full range", ge=0, le=0.5)

    def check(self, path: str) -> None:
        for name in self.augment:
            if name in MOVES_THINGS:
                raise UserError(
                    f"{path}augment = '{name}': it moves objects in the image, and z would learn to ignore "
                    f"their position; choose from {', '.join(KEEPS_POSITION)}"
                )
            if name not in KEEPS_POSITION:
                raise UserError(f"{path}augment = '{name}': choose from {', '.join(KEEPS_POSITION)}")


def augment(image: Float[Tensor, "N C Y X"], settings: Vicreg, rng: torch.Generator) -> Float[Tensor, "N C Y X"]:
    """A view of each frame in which nothing has moved. Noise is sampled on the generator's device."""

    def draw(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=rng, device=rng.device) * 2 - 1).to(image) * settings.strength

    n = image.shape[0]
    for name in settings.augment:
        if name == "brightness":
            image = image + draw(n, 1, 1, 1)
        elif name == "contrast":
            mean = image.mean((1, 2, 3), keepdim=True)
            image = (image - mean) * (1 + 2 * draw(n, 1, 1, 1)) + mean
        elif name == "blur":
            soft = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
            image = torch.lerp(image, soft, draw(n, 1, 1, 1).abs() * 4)
        else:
            image = image + draw(*image.shape) * 0.5
    return image


def variance_hinge(z: Float[Tensor, "N Z"], target: float = 1.0) -> Float[Tensor, ""]:
    """mean_j relu(target - std_j) (VICReg, eq. 1): zero once every coordinate has spread."""
    std = (z.var(0) + 1e-4).sqrt()
    return torch.relu(target - std).mean()


def covariance(z: Float[Tensor, "N Z"]) -> Float[Tensor, ""]:
    """Sum of squared off-diagonal covariances over Z (VICReg, eq. 4)."""
    centred = z - z.mean(0)
    cov = centred.T @ centred / (z.shape[0] - 1)
    return (cov.square().sum() - cov.diagonal().square().sum()) / z.shape[1]


@loss(
    "vicreg",
    updates={"encoder"},
    reads=set(),
    uses={"model.encode_image"},
    source="Bardes et al. 2022 (VICReg), eq. 1-6",
    settings=Vicreg,
)
def vicreg(model, rollout, settings) -> Tensor:
    """Two views of one frame per window (rows are independent): invariance is a mean over rows and Z."""
    frames = rollout.batch.obs["image"]
    b, length = frames.shape[:2]
    rows = min(b, settings.rows)  # windows come in random order
    at = torch.randint(length, (rows,), **rng_kwargs(rollout.rng)).to(frames.device)
    image = as_float(frames[torch.arange(rows, device=frames.device), at])
    left = model.encode_image(augment(image, settings, rollout.rng))
    right = model.encode_image(augment(image, settings, rollout.rng))
    loss = settings.invariance * (left - right).square().mean()
    loss = loss + settings.variance * 0.5 * (variance_hinge(left) + variance_hinge(right))
    return loss + settings.covariance * (covariance(left) + covariance(right))
