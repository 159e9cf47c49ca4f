"""What makes p a distance in actions: a quasimetric learned from reachability, and the notes' ranking. (spec 3, 5)"""

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

    keep_fraction: float = option(1.0, "fraction of the coordinates kept at first (metric=max only)", gt=0, le=1)
    full_progress: float = option(0.6, "fraction of the training after which all are kept", gt=0, le=1)


DROPPED = 1e6  # actions: value of a dropped coordinate: max(b - a) then ignores it


def drop_coordinates(
    start: Float[Tensor, "*N P"], model: Any, roll: Rollout, cfg: CoordinateDropout
) -> Float[Tensor, "*N P"]:
    """Starts of distances, each without its own random coordinates; the fraction kept grows to 1."""
    share = cfg.keep_fraction + (1 - cfg.keep_fraction) * roll.progress / cfg.full_progress
    if share >= 1 or not model.metric.separable:
        return start
    rng = cast(torch.Generator, roll.rng)
    drop = torch.rand(start.shape, generator=rng, device=rng.device).to(start.device) > share
    return start.masked_fill(drop, DROPPED)


def _drawn(
    p: Float[Tensor, "N P"], count: int, rng: torch.Generator | None
) -> tuple[Int64[Tensor, "S"], Int64[Tensor, "S"]]:
    """Random rows to start from and to go to, at most `count` of each, none twice on one side."""
    size = min(count, len(p))
    pick = torch.randperm(len(p), **rng_kwargs(rng)).to(p.device)
    return pick[:size], pick[-size:]


@dataclass(frozen=True)
class Reach(CoordinateDropout):
    """The constraint's price and the objective's softening."""

    multiplier: float = option(30.0, "starting price of breaking the local constraint: it must bite early", gt=0)
    pairs: int = option(128, "random states and goals whose distance is pushed up, per batch", ge=2)
    reach: float = option(30.0, "distances up to about this many actions are pushed at full strength", gt=0)
    softness: float = option(6.0, "width of the fade beyond it, in actions", gt=0)
    slack: float = option(0.01, "mean squared violation that is let pass", ge=0)
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
def reach_p(model, roll, cfg) -> Tensor:
    """Spread every pair as far as it goes, while each observed step costs at most one action.

    mean over random pairs of softness * softplus((reach - d) / softness), plus multiplier * (mean violation - slack).
    The multiplier is trained upwards on the same backward: its gradient is -(mean violation - slack).
    """
    p = roll.p.flatten(0, 1)  # (N, P)
    start, goal = _drawn(p, cfg.pairs, roll.rng)
    far = model.metric.pairs(
        drop_coordinates(p[start], model, roll, cfg), p[goal]
    )  # (S, S), every start with every goal
    push = (cfg.softness * F.softplus((cfg.reach - far) / cfg.softness)).mean()
    step = model.metric(roll.p[:, :-1], roll.p[:, 1:])
    excess = masked_mean(violation(step), roll.batch.connected(1)) - cfg.slack**2
    price = cfg.multiplier * torch.exp(cfg.price_rate * model.lagrange_log_multiplier)
    held = stop_gradient(price, "the multiplier is constant for the pose")
    pressed = stop_gradient(excess, "the price follows the violation, it does not cause it")
    return push + held * excess - price * pressed


@dataclass(frozen=True)
class Bellman(CoordinateDropout):
    """Pairs per batch, and the actions tried."""

    pairs: int = option(128, "random states and goals per batch", ge=2)
    actions: int = option(16, "actions tried where they are continuous (discrete ones are all tried)", ge=1)
    beta: float = option(1.0, "where the error's penalty turns linear, in actions", gt=0)
    near: float = option(0.0, "extra weight of pairs that look alike: p must be sharp where z is smooth", ge=0)
    most: float = option(64.0, "longest distance taught: where no way is imagined yet, it would grow for ever", gt=1)


@loss(
    "bellman_p",
    updates={"pose", "metric"},
    reads={"z_in", "h", "p"},
    uses={"model.metric", "model.pose_of", "model.predict", "model.predict_z"},
    source="Bellman's optimality equation for unit costs (Kaelbling 1993), on one imagined step",
    settings=Bellman,
    extra_updates={"encoder_attached": {"encoder"}},
    undefined_in={"summed_pose": "a running sum gives an imagined place no p of its own"},
)
def bellman_p(model, roll, cfg) -> Tensor:
    """d_p(s, g) against 1 + min_a d_p(s_a, g), s_a imagined, target stopped: smooth L1, mean over unlike pairs.

    reach_p pushes every pair alike and stalls where few coordinates serve many pairs; this presses only where a pair is
    not yet one action longer than its best neighbour, and stays consistent there.
    """
    z, h, p = roll.z_in.flatten(0, 1), roll.h.flatten(0, 1), roll.p.flatten(0, 1)
    start, goal = _drawn(p, cfg.pairs, roll.rng)
    moves = _moves(model.action, cfg.actions, roll.rng).to(p.device)  # (M, A)
    target = without_grad(
        lambda: (1 + _onward(model, z[start], h[start], moves, p[goal])).clamp_max(cfg.most),
        "the neighbour's distance is the teacher",
    )
    apart = stop_gradient(_apart(z[start], z[goal]), "looks weigh the pairs, they are not to be gamed")
    here_to = model.metric.pairs(drop_coordinates(p[start], model, roll, cfg), p[goal])
    error = F.smooth_l1_loss(here_to, target, beta=cfg.beta, reduction="none")
    look = stop_gradient(norm(roll.z_in.diff(dim=1)), "a unit is not a target")
    unit = masked_mean(look, roll.batch.connected(1)).clamp_min(1e-6)  # how far one action moves z
    weight = 1 + cfg.near * torch.exp(-0.5 * (apart / unit).square())
    return masked_mean(weight * error, apart > 1e-3)


def _apart(a: Float[Tensor, "S Z"], b: Float[Tensor, "G Z"]) -> Float[Tensor, "S G"]:
    """Euclidean distances by differences: by a matrix product, equal pictures would lie up to 4e-3 apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _onward(model: Any, z: Tensor, h: Tensor, moves: Tensor, goal: Tensor) -> Float[Tensor, "S G"]:
    """min over moves of d_p from where one imagined step leads to every goal."""
    here = [x[:, None].expand(-1, len(moves), -1) for x in (z, h)]
    after = model.pose_of(model.predict_z(model.predict(*here, moves.expand(len(z), *moves.shape))))  # (S, M, P)
    return torch.stack([model.metric.pairs(after[:, m], goal) for m in range(len(moves))]).amin(0)


def _moves(space: ActionSpec, count: int, rng: torch.Generator | None) -> Float[Tensor, "M A"]:
    if space.discrete:  # staying put is never the shorter way
        return torch.eye(space.size)[[i for i in range(space.size) if i != space.noop]]
    return space.project(2 * (torch.rand(count, space.size, **rng_kwargs(rng)) * 2 - 1))  # half of them at full speed


@dataclass(frozen=True)
class Rank:
    """Goals and triplets per batch."""

    goals: int = option(32, "goal frames per batch", ge=1)
    triplets: int = option(1024, "ordered pairs per batch", ge=1)
    margin: float = option(1.0, "asked difference of distance, in actions", gt=0)


def place_ids(images: Tensor) -> Int64[Tensor, "B T"]:
    """One number per distinct frame: equal pictures, equal number (a fixed random projection in float64)."""
    flat = images.flatten(2).double()
    probe = (
        torch.sin(torch.arange(1, flat.shape[-1] + 1, device=flat.device, dtype=torch.float64) * 12.9898) * 43758.5453
    )
    keys = (flat @ (probe - probe.floor())).mul(1e3).round()
    return torch.unique(keys, return_inverse=True)[1].reshape(images.shape[:2])


def first_hits(
    ids: Int64[Tensor, "B T"], joint: Bool[Tensor, "B T-1"], goals: Int64[Tensor, "G"]
) -> Float[Tensor, "G B T"]:
    """Rows until the goal's frame is first seen again in the same episode; inf where it is not."""
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
def geometry_rank_p(model, roll, cfg) -> Tensor:
    """relu(margin + d(near, goal) - d(far, goal)) over pairs whose best observed first-hit times are ordered. Mean."""
    ids = place_ids(roll.batch.obs["image"])
    p = roll.p.flatten(0, 1)
    n = len(p)
    goal = torch.randint(n, (cfg.goals,), **rng_kwargs(roll.rng)).to(p.device)
    hits = first_hits(ids, roll.batch.connected(1), ids.flatten()[goal]).flatten(1)  # (G, N)
    places = int(ids.max()) + 1
    best = torch.full((cfg.goals, places), torch.inf, device=p.device)
    best = best.scatter_reduce(
        1, ids.flatten().expand(cfg.goals, n), hits, "amin"
    )  # best over every visit of the place
    waits = best.gather(1, ids.flatten().expand(cfg.goals, n))  # (G, N)
    g, one, two = _known_pairs(torch.isfinite(waits), cfg.triplets, roll.rng)
    wait_one, wait_two = waits[g, one], waits[g, two]
    near, far = torch.where(wait_one < wait_two, one, two), torch.where(wait_one < wait_two, two, one)
    aim = p[goal[g]]
    hinge = torch.relu(cfg.margin + model.metric(p[near], aim) - model.metric(p[far], aim))
    return masked_mean(hinge, wait_one != wait_two)


def _known_pairs(
    known: Bool[Tensor, "G N"], count: int, rng: torch.Generator | None
) -> tuple[Int64[Tensor, "M"], Int64[Tensor, "M"], Int64[Tensor, "M"]]:
    """(goal, frame, frame) with both frames known to lead to the goal: few are, so none is drawn in vain."""
    order = known.float().argsort(dim=1, descending=True, stable=True)  # each goal's known frames first
    g = torch.randint(len(known), (count,), **rng_kwargs(rng)).to(known.device)
    at = (torch.rand(2, count, **rng_kwargs(rng)).to(known.device) * known.sum(1)[g]).long()
    return g, order[g, at[0]], order[g, at[1]]
