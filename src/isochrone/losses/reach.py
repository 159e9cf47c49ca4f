"""Losses that make d_p a distance in actions: a quasimetric from reachability, and ranking by first-hit times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from isochrone.core.config import option
from isochrone.core.gradient import stop_gradient, without_grad
from isochrone.core.tensors import rng_kwargs
from isochrone.core.types import ActionSpec, Rollout
from isochrone.losses.loss import loss
from isochrone.losses.reductions import masked_mean, norm

EXTRA = {"encoder_attached": {"encoder"}, "summed_pose": {"delta_p"}}
FEWER = {"summed_pose": {"pose"}}


@dataclass(frozen=True)
class CoordinateDropout:
    """Drop random coordinates of p in early training, so that distances come to depend on many of them, not a few."""

    keep_fraction: float = option(
        1.0, "fraction of the coordinates that are not dropped at first (metric=max only)", gt=0, le=1
    )
    full_progress: float = option(0.6, "fraction of the training after which none is dropped", gt=0, le=1)


DROPPED = 1e6  # actions: value of a dropped coordinate: max(b - a) then ignores it


def drop_coordinates(
    start: Float[Tensor, "*N P"], model: Any, rollout: Rollout, settings: CoordinateDropout
) -> Float[Tensor, "*N P"]:
    """Starts of distances, each with random coordinates dropped; the fraction that remains grows to 1."""
    keep = settings.keep_fraction + (1 - settings.keep_fraction) * rollout.progress / settings.full_progress
    if keep >= 1 or not model.metric.separable:
        return start
    rng = cast(torch.Generator, rollout.rng)
    drop = torch.rand(start.shape, generator=rng, device=rng.device).to(start.device) > keep
    return start.masked_fill(drop, DROPPED)


def _sample_rows(
    p: Float[Tensor, "N P"], count: int, rng: torch.Generator | None
) -> tuple[Int64[Tensor, "S"], Int64[Tensor, "S"]]:
    """Random rows as starts and as goals, at most `count` of each, without repetition."""
    size = min(count, len(p))
    order = torch.randperm(len(p), **rng_kwargs(rng)).to(p.device)
    return order[:size], order[-size:]


@dataclass(frozen=True)
class Reach(CoordinateDropout):
    """Settings of the constraint and of the distances that are pushed up."""

    multiplier: float = option(
        30.0,
        "initial Lagrange multiplier of the local constraint; a low one lets distances grow too far at first",
        gt=0,
    )
    pairs: int = option(128, "random states and goals whose distance is pushed up, per batch", ge=2, le=65_536)
    reach: float = option(30.0, "distances up to about this many actions are pushed at full strength", gt=0)
    softness: float = option(6.0, "width of the transition to no weight beyond it, in actions", gt=0)
    slack: float = option(0.01, "root of the mean squared violation that is allowed", ge=0)
    price_rate: float = option(1.0, "how fast the multiplier follows the violation", ge=0)


def violation(step: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """(d - 1)_+^2: an observed step may not cost more than one action."""
    return (step - 1).clamp_min(0).square()


@loss(
    "reach_p",
    updates={"pose", "metric", "lagrange_log_multiplier"},
    reads={"p"},
    uses={"model.metric", "model.lagrange_log_multiplier"},
    source="Wang et al. 2023 (Optimal goal-reaching via quasimetric learning), eq. 8-10",
    settings=Reach,
    extra_updates=EXTRA,
    fewer_updates=FEWER,
)
def reach_p(model, rollout, settings) -> Tensor:
    """Increase the distances of all pairs, while each observed step costs at most one action.

    mean over random pairs of softness * softplus((reach - d) / softness), plus multiplier * (mean violation - slack^2).
    The multiplier is trained by ascent in the same backward pass: its gradient has the sign of
    -(mean violation - slack^2).
    """
    p = rollout.p.flatten(0, 1)  # (N, P)
    start, goal = _sample_rows(p, settings.pairs, rollout.rng)
    distances = model.metric.pairs(
        drop_coordinates(p[start], model, rollout, settings), p[goal]
    )  # (S, S), every start with every goal
    push = (settings.softness * F.softplus((settings.reach - distances) / settings.softness)).mean()
    step = model.metric(rollout.p[:, :-1], rollout.p[:, 1:])
    excess = masked_mean(violation(step), rollout.batch.connected(1)) - settings.slack**2
    multiplier = settings.multiplier * torch.exp(settings.price_rate * model.lagrange_log_multiplier)
    multiplier_sg = stop_gradient(multiplier, "the multiplier is constant for the pose")
    excess_sg = stop_gradient(excess, "the multiplier's gradient does not move the pose")
    return push + multiplier_sg * excess - multiplier * excess_sg


@dataclass(frozen=True)
class Bellman(CoordinateDropout):
    """Pairs per batch, and the actions that the minimum is taken over."""

    pairs: int = option(128, "random states and goals per batch", ge=2, le=65_536)
    actions: int = option(
        16, "random actions per batch where they are continuous (of discrete ones, all)", ge=1, le=65_536
    )
    beta: float = option(1.0, "where the error's penalty turns linear, in actions", gt=0)
    near: float = option(
        0.0, "extra weight of pairs that are close in z: p must change sharply where z is smooth", ge=0
    )
    most: float = option(
        64.0,
        "largest target: without a bound, goals that no imagined path reaches yet would get ever larger ones",
        gt=1,
    )


@loss(
    "bellman_p",
    updates={"pose", "metric"},
    reads={"z_in", "h", "p"},
    uses={"model.metric", "model.pose_of", "model.predict", "model.predict_z"},
    constant={"z_in", "h"},
    source="Bellman's optimality equation for unit costs (Kaelbling 1993), on one imagined step",
    settings=Bellman,
    extra_updates={"encoder_attached": {"encoder"}},
    undefined_in={"summed_pose": "with a running sum an imagined state has no measured p"},
)
def bellman_p(model, rollout, settings) -> Tensor:
    """d_p(s, g) against 1 + min_a d_p(s_a, g), s_a imagined, target stopped: smooth L1, mean over pairs of different z.

    reach_p pushes all pairs equally and stalls where few coordinates determine many distances; this loss pushes only
    pairs that violate the equation, and is zero where it holds.
    """
    z, h, p = rollout.z_in.flatten(0, 1), rollout.h.flatten(0, 1), rollout.p.flatten(0, 1)
    start, goal = _sample_rows(p, settings.pairs, rollout.rng)
    actions = _actions(model.action, settings.actions, rollout.rng).to(p.device)  # (M, A)
    target = without_grad(
        lambda: (1 + _best_next_distance(model, z[start], h[start], actions, p[goal])).clamp_max(settings.most),
        "the next state's distance is the target",
    )
    distance_z = stop_gradient(
        _distances(z[start], z[goal]), "the weights are constants: the loss must not be lowered by changing them"
    )
    distance_p = model.metric.pairs(drop_coordinates(p[start], model, rollout, settings), p[goal])
    error = F.smooth_l1_loss(distance_p, target, beta=settings.beta, reduction="none")
    step = stop_gradient(norm(rollout.z_in.diff(dim=1)), "the unit of length is measured, not learned")
    unit = masked_mean(step, rollout.batch.connected(1)).clamp_min(1e-6)  # how far one action moves z
    weight = 1 + settings.near * torch.exp(-0.5 * (distance_z / unit).square())
    return masked_mean(weight * error, distance_z > 1e-3)


def _distances(a: Float[Tensor, "S Z"], b: Float[Tensor, "G Z"]) -> Float[Tensor, "S G"]:
    """Euclidean distances by differences: by a matrix product, equal images would be up to 4e-3 apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _best_next_distance(model: Any, z: Tensor, h: Tensor, actions: Tensor, goal: Tensor) -> Float[Tensor, "S G"]:
    """min over actions of d_p from the state after one imagined step to every goal."""
    repeated = [x[:, None].expand(-1, len(actions), -1) for x in (z, h)]
    after = model.pose_of(
        model.predict_z(model.predict(*repeated, actions.expand(len(z), *actions.shape)))
    )  # (S, M, P)
    return torch.stack([model.metric.pairs(after[:, m], goal) for m in range(len(actions))]).amin(0)


def _actions(space: ActionSpec, count: int, rng: torch.Generator | None) -> Float[Tensor, "M A"]:
    if space.discrete:  # the no-op never shortens the path
        return torch.eye(space.size)[[i for i in range(space.size) if i != space.noop]]
    return space.project(2 * (torch.rand(count, space.size, **rng_kwargs(rng)) * 2 - 1))  # half of them at full speed


@dataclass(frozen=True)
class Rank:
    """Goals and triplets per batch."""

    goals: int = option(32, "goal frames per batch", ge=1, le=65_536)
    triplets: int = option(1024, "ordered pairs per batch", ge=1, le=1_048_576)
    margin: float = option(1.0, "required difference of distance, in actions", gt=0)


def place_ids(images: Tensor) -> Int64[Tensor, "B T"]:
    """One number per distinct frame, the same for equal frames (a fixed random projection in float64)."""
    flat = images.flatten(2).double()
    probe = (
        torch.sin(torch.arange(1, flat.shape[-1] + 1, device=flat.device, dtype=torch.float64) * 12.9898) * 43758.5453
    )
    keys = (flat @ (probe - probe.floor())).mul(1e3).round()
    return torch.unique(keys, return_inverse=True)[1].reshape(images.shape[:2])


def first_hits(
    ids: Int64[Tensor, "B T"], joint: Bool[Tensor, "B T-1"], goals: Int64[Tensor, "G"]
) -> Float[Tensor, "G B T"]:
    """Rows until the goal's frame first occurs in the same episode; inf where it does not."""
    match = ids[None] == goals[:, None, None]  # (G, B, T)
    wait = torch.where(match[..., -1], 0.0, torch.inf)
    waits = [wait]
    for t in range(ids.shape[1] - 2, -1, -1):
        later = torch.where(joint[None, :, t], wait + 1, torch.inf)
        wait = torch.where(match[..., t], 0.0, later)
        waits.append(wait)
    return torch.stack(waits[::-1], -1)


@loss(
    "geometry_rank_p",
    updates={"pose", "metric"},
    reads={"p"},
    uses={"model.metric"},
    source="docs/background.md, The original losses",
    settings=Rank,
    extra_updates=EXTRA,
    fewer_updates=FEWER,
)
def geometry_rank_p(model, rollout, settings) -> Tensor:
    """relu(margin + d(near, goal) - d(far, goal)) over pairs whose best observed first-hit times are ordered. Mean."""
    ids = place_ids(rollout.batch.obs["image"])
    p = rollout.p.flatten(0, 1)
    n = len(p)
    goal = torch.randint(n, (settings.goals,), **rng_kwargs(rollout.rng)).to(p.device)
    hits = first_hits(ids, rollout.batch.connected(1), ids.flatten()[goal]).flatten(1)  # (G, N)
    places = int(ids.max()) + 1
    best = torch.full((settings.goals, places), torch.inf, device=p.device)
    best = best.scatter_reduce(
        1, ids.flatten().expand(settings.goals, n), hits, "amin"
    )  # best over every visit of the place
    waits = best.gather(1, ids.flatten().expand(settings.goals, n))  # (G, N)
    g, first, second = _finite_pairs(torch.isfinite(waits), settings.triplets, rollout.rng)
    wait_first, wait_second = waits[g, first], waits[g, second]
    near, far = (
        torch.where(wait_first < wait_second, first, second),
        torch.where(wait_first < wait_second, second, first),
    )
    target = p[goal[g]]
    hinge = torch.relu(settings.margin + model.metric(p[near], target) - model.metric(p[far], target))
    return masked_mean(hinge, wait_first != wait_second)


def _finite_pairs(
    finite: Bool[Tensor, "G N"], count: int, rng: torch.Generator | None
) -> tuple[Int64[Tensor, "M"], Int64[Tensor, "M"], Int64[Tensor, "M"]]:
    """(goal, frame, frame) both with a finite first-hit time; sampled among those only, because they are few."""
    order = finite.float().argsort(dim=1, descending=True, stable=True)  # each goal's finite frames first
    g = torch.randint(len(finite), (count,), **rng_kwargs(rng)).to(finite.device)
    at = (torch.rand(2, count, **rng_kwargs(rng)).to(finite.device) * finite.sum(1)[g]).long()
    return g, order[g, at[0]], order[g, at[1]]
