"""The evidence lower bound of a state-space model, as separate losses, and overshooting.

Every likelihood is in nats, without constants, summed over the event (pixels, groups of z) and averaged over batch and
time: with the default settings, and where no row is a first one, the sum of `image`, `reward`, `continue` and `kl` is
the negative ELBO per row. Whatever the settings and rows, that is the sum of what each logs as `nats/NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isochrone.core.config import option
from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Struct
from isochrone.losses.loss import loss
from isochrone.losses.pixels import coarser
from isochrone.losses.reductions import masked_mean

BELIEF = {"encoder", "dynamics", "posterior"}  # what a loss on features of posteriors moves
ALONE = {"decoupled_memoryless": {"dynamics"}}  # features are z alone, and z comes from the frame alone
PLANET = "Hafner et al. 2019 (PlaNet)"


class HalfSquares(torch.autograd.Function):
    """1/2 |prediction - target|^2 over the event, as one node of the graph.

    Images are large, and each pass over them costs time: 1.77 times as fast as the plain expression on one CPU thread
    (bench/results/custom_autograd-cpu.json).
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, prediction: Tensor, lead: int) -> Tensor:
        error = (prediction - target).flatten(lead)
        ctx.save_for_backward(error)
        ctx.shape = prediction.shape
        return 0.5 * torch.linalg.vecdot(error, error)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (error,) = ctx.saved_tensors
        back = (error * grads[0][..., None]).reshape(ctx.shape)
        return -back if ctx.needs_input_grad[0] else None, back if ctx.needs_input_grad[1] else None, None


def half_squared_error(
    target: Float[Tensor, "*N"], prediction: Float[Tensor, "*N"], lead: int = 2
) -> Float[Tensor, "*B"]:
    """Half the squared error: minus the log of a unit-variance Gaussian without its constant.

    Summed over the event, which is every dimension after the first `lead`.
    """
    return HalfSquares.apply(target, prediction, lead)  # type: ignore[return-value]


# --- parts of the negative ELBO per row, from the values of losses ----------------------------------------------------


def own_value(value: Tensor, rollout: Any, settings: Any) -> Tensor:
    """The value is the loss's part."""
    return value


def image_nats(value: Tensor, rollout: Any, settings: Any) -> Tensor | None:
    """The value; None with coarser levels, which are no part of the ELBO."""
    return value if settings.levels == 1 else None


def unscaled(value: Tensor, rollout: Any, settings: Any) -> Tensor:
    """The value without the factor of the likelihood."""
    return value / settings.scale


def reward_nats(value: Tensor, rollout: Any, settings: Any) -> Tensor:
    """The value without its factor, over all rows: first rows have no reward, and a likelihood of 1."""
    return value / settings.scale * (~rollout.batch.first).float().mean()


def kl_nats(value: Tensor, rollout: Any, settings: Any) -> Tensor:
    """KL(q || p) itself: without weights and free nats."""
    if settings.free > 0 or settings.dyn + settings.rep == 0:
        return rollout.posterior.kl(rollout.prior).sum(-1).mean()
    return value / (settings.dyn if settings.dyn == settings.rep else settings.dyn + settings.rep)


@dataclass(frozen=True)
class Scale:
    """The weight of a likelihood."""

    scale: float = option(1.0, "factor of the log-likelihood (PlaNet's code: 10 for the reward)", gt=0)


@dataclass(frozen=True)
class Pyramid:
    """Levels of an image pyramid that are compared as well."""

    levels: int = option(1, "the image, its half, its quarter, ... (1: as the ELBO has it)", ge=1, le=16)
    rise: float = option(2.0, "weight of a level against the finer one", gt=0)


@loss(
    "image",
    updates={"decoder", *BELIEF},
    reads={"target", "image_hat"},
    source=f"{PLANET}, eq. 3; ln p(o_t | s_t)",
    nats=image_nats,
    settings=Pyramid,
    fewer_updates=ALONE,
)
def image(model, rollout, settings) -> Tensor:
    """1/2 |o - o_hat|^2 over the pixels of the preprocessed image: sum over the event, mean over (B, R).

    With more `levels` also of sums over 2 x 2 pixels, halved (so that a smooth image has the same energy): without
    overlap the pixel error of two small objects does not depend on their distance; at coarser levels it does.
    """
    target, prediction = (x.flatten(0, 1) for x in (rollout.target["image"], rollout.image_hat))
    total = half_squared_error(target, prediction, 1).mean()
    for level in range(1, settings.levels):
        if min(prediction.shape[-2:]) < 2:
            break
        target, prediction = 2 * coarser(target), 2 * coarser(prediction)
        total = total + settings.rise**level * half_squared_error(target, prediction, 1).mean()
    return total


@loss(
    "vectors",
    updates={"decoder", *BELIEF},
    reads={"target", "vectors_hat"},
    source=f"{PLANET}, eq. 3; symlog: Hafner et al. 2023, eq. 1",
    nats=own_value,
    fewer_updates=ALONE,
)
def vectors(model, rollout, settings) -> Tensor:
    """The same of every observation that is a vector, in symlog space: sum over the event, mean over (B, T)."""
    errors = [half_squared_error(rollout.target[name], prediction) for name, prediction in rollout.vectors_hat.items()]
    return torch.stack(errors).sum(0).mean()


@loss(
    "reward",
    updates={"reward", *BELIEF},
    reads={"reward_hat"},
    uses={"model.reward_head"},
    source=f"{PLANET}, eq. 3; two-hot: Hafner et al. 2023, eq. 10",
    nats=reward_nats,
    settings=Scale,
    fewer_updates=ALONE,
)
def reward(model, rollout, settings) -> Tensor:
    """-ln p(r_t | s_t) of the reward on arrival; first rows have none and are left out. Mean over the other (B, T)."""
    nll = model.reward_head.nll(rollout.reward_hat, rollout.batch.reward)
    return settings.scale * masked_mean(nll, ~rollout.batch.first)


@loss(
    "continue",
    updates={"continue", *BELIEF},
    reads={"continue_hat"},
    uses={"model.continue_head"},
    source="Hafner et al. 2021 (Dreamer v2), eq. 2",
    nats=unscaled,
    settings=Scale,
    fewer_updates=ALONE,
)
def continue_loss(model, rollout, settings) -> Tensor:
    """-ln p(c_t | s_t), c_t = 0 on terminal rows. Mean over (B, T)."""
    return settings.scale * model.continue_head.nll(rollout.continue_hat, rollout.batch.terminal).mean()


@dataclass(frozen=True)
class Kl:
    """Weights of the two directions of the KL, and its free nats."""

    dyn: float = option(1.0, "weight of KL(stopped posterior | prior): trains the prior", ge=0)
    rep: float = option(1.0, "weight of KL(posterior | stopped prior): trains the posterior", ge=0)
    free: float = option(0.0, "free nats: below them the KL costs nothing", ge=0)
    averaged: bool = option(False, "apply them to the mean over batch and time (Dreamer v1, v2), not row by row")


def with_free_nats(
    kl: Float[Tensor, "*B"], free: float, averaged: bool, valid: Bool[Tensor, "*B"]
) -> Float[Tensor, ""]:
    """Mean over the valid rows of max(free, KL), or max(free, the mean)."""
    if averaged:
        return masked_mean(kl, valid).clamp_min(free)
    return masked_mean(kl.clamp_min(free), valid)


def balanced_kl(q: Any, p: Any, settings: Kl, valid: Bool[Tensor, "*B"]) -> Float[Tensor, ""]:
    """dyn KL(sg q || p) + rep KL(q || sg p), each over its free nats.

    With equal weights this is the gradient of one KL times the weight, and the value is that, half of the sum of both:
    weights of 1 give the ELBO's KL. What does not jump with the weights is logged as `nats/kl`.
    """
    if settings.dyn == settings.rep:
        return settings.dyn * with_free_nats(q.kl(p).sum(-1), settings.free, settings.averaged, valid)
    prior_kl = stop_gradient(q, "this direction trains the prior alone").kl(p).sum(-1)
    posterior_kl = q.kl(stop_gradient(p, "this direction trains the posterior alone")).sum(-1)
    dyn, rep = (with_free_nats(x, settings.free, settings.averaged, valid) for x in (prior_kl, posterior_kl))
    return settings.dyn * dyn + settings.rep * rep


@loss(
    "kl",
    updates={"prior", *BELIEF},
    reads={"posterior", "prior"},
    source=f"{PLANET}, eq. 3; balance: Hafner et al. 2021, alg. 2; free nats per row: Hafner et al. 2023, eq. 5",
    nats=kl_nats,
    settings=Kl,
    probe_overrides={"free": 0.0},
)
def kl(model, rollout, settings) -> Tensor:
    """KL(q(z_t | h_t, o_t) || p(z_t | h_t)): sum over z, free nats per row or on the mean, mean over (B, T)."""
    valid = torch.ones_like(rollout.batch.first)
    return balanced_kl(rollout.posterior, rollout.prior, settings, valid)


@loss(
    "kl_global",
    updates=BELIEF,
    reads={"posterior"},
    source=f"{PLANET}, appendix; off in its released code",
    fewer_updates={"decoupled_posterior": {"dynamics"}},
)
def kl_global(model, rollout, settings) -> Tensor:
    """KL(q || fixed standard prior): N(0, I), or even odds. Sum over z, mean over (B, T)."""
    return rollout.posterior.kl(rollout.posterior.standard()).sum(-1).mean()


def from_depth_2(x: Tensor | Struct) -> Any:
    """Depths d = 2..D of something (B, S, D, ...): depth 1 is the one-step loss."""
    return x.map(from_depth_2) if isinstance(x, Struct) else x[:, :, 1:]


@loss(
    "overshoot_kl",
    updates={"prior", *BELIEF},
    reads={"posterior", "overshoot"},
    constant={"posterior"},
    source=f"{PLANET}, eq. 7; the posteriors of d > 1 are stopped",
    settings=Kl,
    probe_overrides={"free": 0.0},
)
def overshoot_kl(model, rollout, settings) -> Tensor:
    """KL(sg q(z_t) || p(z_t | posterior d steps before)), d = 2..D: sum over z, mean over starts and depths.

    With `kl` at weight 1 / D and this at beta (D - 1) / D, the sum is the paper's average over d = 1..D.
    """
    over = rollout.overshoot
    q = stop_gradient(
        from_depth_2(over.target(rollout.posterior)), "overshooting teaches the prior only (PlaNet, section 4)"
    )
    return settings.dyn * with_free_nats(
        q.kl(from_depth_2(over.prior)).sum(-1), settings.free, settings.averaged, from_depth_2(over.valid)
    )


@loss(
    "overshoot_reward",
    updates={"reward", "prior", *BELIEF},
    reads={"overshoot"},
    uses={"model.reward_head"},
    source="Kaixhin/PlaNet, reward overshooting",
    settings=Scale,
)
def overshoot_reward(model, rollout, settings) -> Tensor:
    """-ln p(r_t | imagined s_t), d = 1..D steps after a posterior. Mean over starts and depths."""
    over = rollout.overshoot
    nll = model.reward_head.nll(model.reward_head(over.feat), over.target(rollout.batch.reward))
    return settings.scale * masked_mean(nll, over.valid)


@loss(
    "overshoot_image",
    updates={"decoder", "prior", *BELIEF},
    reads={"frames", "overshoot"},
    uses={"model.decoder"},
    source="Amos et al. 2018 (multi-step prediction); PlaNet, section 4, observation overshooting",
)
def overshoot_image(model, rollout, settings) -> Tensor:
    """1/2 |o_t - imagined o_t|^2, d = 1..D steps after a posterior: sum over the event, mean over starts and depths."""
    over = rollout.overshoot
    image_hat = model.decoder.image(over.feat)
    target = stop_gradient(over.target(rollout.frames), "frames are data")
    return masked_mean(half_squared_error(target, image_hat, 3), over.valid)
