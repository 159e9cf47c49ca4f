"""Where inside a rollout a loss may pull. Groups cannot tell a stopped target from a live one when both lead to the
same weights, so here the rollout's fields are leaves, and each must get a gradient exactly where it is said to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tinymodel import generator, objective, tiny, weighted, windows
from torch import Tensor

from isochrone.core import registry
from isochrone.core.types import Rollout, tree_map

# term -> the fields that it may pull, with everything attached
PULLS = {
    "jepa": {"z_hat"},
    "h2z": {"h"},
    "z2h": set(),
    "h_start": set(),
    "recon_multi_box": {"recon"},
    "pixel_delta_multi_box": {"recon"},
    "rollout_kstep_h": {"open_loop.h"},
    "rollout_kstep_delta_h": {"open_loop.h"},
    "rollout_kstep_z": {"open_loop.z"},
    "action_delta_h": {"h"},
    "action_delta_dp": {"dp"},
    "additivity_dp": {"p", "h", "dp"},
    "rollout_kstep_p": {"p", "dp"},
    "scale_dp": {"dp"},
    "inverse_dynamics_h": {"z_in", "h"},
    "reach_p": {"p"},
    "bellman_p": {"p"},
    "geometry_rank_p": {"p"},
    "z_smooth": {"z"},
    "displacement_rank": {"z"},
    "displacement_read": {"z"},
    "motion_read": {"h"},
    "vicreg": set(),
}
# the same for the state-space models
BELIEFS = {
    "image": {"image_hat"},
    "reward": {"reward_hat"},
    "continue": {"continue_hat"},
    "kl": {"posterior.mean", "posterior.std", "prior.mean", "prior.std"},
    "kl_global": {"posterior.mean", "posterior.std"},
    "overshoot_kl": {"overshoot.mean", "overshoot.std"},
    "overshoot_reward": {"overshoot.feat"},
    "overshoot_image": {"overshoot.feat"},
}
ATTACHED = {"stop_grad_to_encoder": False, "stop_grad_to_predictor": False, "metric": "residual"}


def leaf(x: Tensor) -> Tensor:
    copy = x.detach().clone()
    return copy.requires_grad_() if copy.is_floating_point() else copy


def leaves(model: Any, term: Any, seed: int = 0) -> tuple[Rollout, dict[str, Tensor]]:
    """A rollout whose every field is a leaf, and the leaves by name."""
    roll = model.observe(windows(1)[0], term.reads, generator(seed))
    fields = {k: tree_map(leaf, v) for k, v in roll.fields.items() if k in term.reads}
    named = {k: v for k, v in fields.items() if isinstance(v, Tensor) and v.is_floating_point()}
    if "open_loop" in fields:
        named |= {f"open_loop.{k}": getattr(fields["open_loop"], k) for k in ("z", "h")}
    return Rollout(roll.batch, fields, generator(seed)), named


def pulled(model: Any, name: str, cfg: Any = None) -> dict[str, Tensor | None]:
    term = registry.get("loss", name)
    roll, named = leaves(model, term)
    loss = term(model, roll, cfg)
    pulls = loss.requires_grad and named
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True) if pulls else [None]
    return dict(zip(named, grads, strict=False))


@pytest.mark.parametrize("name", PULLS)
def test_a_loss_pulls_only_where_it_should(name: str) -> None:
    grads = pulled(tiny(**ATTACHED), name)
    assert {k for k, g in grads.items() if g is not None and bool(g.any())} == PULLS[name]


def believed(name: str, cfg: Any = None) -> set[str]:
    """The fields of an RSSM's rollout that a loss pulls, its beliefs by their parameters."""
    model, term = tiny("rssm"), registry.get("loss", name)
    roll = model.observe(windows(1)[0], term.reads, generator())
    fields = {k: tree_map(leaf, v) for k, v in roll.fields.items() if k in term.reads}
    named = {k: v for k, v in fields.items() if isinstance(v, Tensor)}
    for k in set(fields) & {"posterior", "prior"}:
        named |= {f"{k}.{part}": getattr(fields[k], part) for part in ("mean", "std")}
    if "overshoot" in fields:
        over = fields["overshoot"]
        named |= {"overshoot.feat": over.feat, "overshoot.mean": over.prior.mean, "overshoot.std": over.prior.std}
    loss = term(model, Rollout(roll.batch, fields, generator()), cfg)
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k for k, g in zip(named, grads, strict=True) if g is not None and bool(g.any())}


@pytest.mark.parametrize("name", BELIEFS)
def test_a_loss_of_belief_pulls_only_where_it_should(name: str) -> None:
    assert believed(name) == BELIEFS[name]


def test_each_half_of_a_balanced_kl_pulls_one_side() -> None:
    settings = registry.get("loss", "kl").settings
    assert believed("kl", settings(dyn=1.0, rep=0.0)) == {"prior.mean", "prior.std"}
    assert believed("kl", settings(dyn=0.0, rep=1.0)) == {"posterior.mean", "posterior.std"}


@pytest.mark.parametrize("detach", [True, False])
def test_odometry_reads_the_pose_without_choosing_it(detach: bool) -> None:
    """With the default detach the second half-step of additivity_dp must not move p or h through G's inputs."""
    model = tiny(stop_grad_to_encoder=detach, stop_grad_to_predictor=detach)
    p, h = torch.randn(4, 8, requires_grad=True), torch.randn(4, 16, requires_grad=True)
    step = model.odometry(p, h, torch.eye(5)[:4])
    grads = torch.autograd.grad(step.sum(), [p, h], allow_unused=True)
    assert all((g is None) == detach for g in grads)


def test_action_delta_h_holds_the_side_it_says() -> None:
    model, cfg = tiny(**ATTACHED), registry.get("loss", "action_delta_h").settings()
    pull = pulled(model, "action_delta_h", replace(cfg, hold="change"))["h"]
    assert pull is not None
    assert bool(pull[:, :-1].any())
    assert not bool(pull[:, -1].any()), "the last belief appears in the change only"
    pull = pulled(model, "action_delta_h", replace(cfg, hold="state"))["h"]
    assert pull is not None
    assert bool(pull.any())
    # h' - h is all that is left: what pulls h' forward pulls h back
    torch.testing.assert_close(pull.sum(1), torch.zeros_like(pull.sum(1)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{"stop_grad_to_encoder": False}, {"stop_grad_to_predictor": False}, {"stop_grad_from_decoder": True}, {}],
)
def test_observe_stops_where_the_config_says(changes: dict[str, Any]) -> None:
    """The same from the model's side: which parts of the model each field hangs on."""
    model = tiny(**changes)
    roll = model.observe(windows(1)[0], model.provides, generator())
    reach: dict[str, set[str]] = {}
    groups = model.groups()
    for name in ("z", "z_in", "h", "z_hat", "p", "dp", "recon"):
        field = roll.fields[name]
        if not field.requires_grad:
            reach[name] = set()
            continue
        parts = [p for ps in groups.values() for p in ps]
        grads = iter(torch.autograd.grad(field.square().sum(), parts, allow_unused=True, retain_graph=True))
        reach[name] = {g for g, ps in groups.items() if any([next(grads) is not None for _ in ps])}
    eye = {"encoder"} if "stop_grad_to_encoder" in changes else set()
    mind = {"predictor", "z2h"} if "stop_grad_to_predictor" in changes else set()
    assert reach == {
        "z": {"encoder"},
        "z_in": eye,
        "h": eye | {"predictor", "z2h"},
        "z_hat": eye | {"predictor", "z2h", "h2z"},
        "p": eye | {"pose"},
        "dp": eye | mind | {"delta_p"} | ({"pose"} if eye else set()),
        "recon": {"decoder"} | ({"encoder"} if not model.config.stop_grad_from_decoder else set()),
    }


def test_numbers_for_the_log_carry_no_graph() -> None:
    total = objective(tiny(), weighted(jepa=2.0, z2h=0.5, reach_p=0.0))
    loss, told = total(windows(1)[0], generator())
    assert loss.requires_grad
    assert set(told) == {"loss", "loss/jepa", "loss/z2h"}
    assert not any(value.requires_grad for value in told.values())
    torch.testing.assert_close(told["loss"], 2 * told["loss/jepa"] + 0.5 * told["loss/z2h"])
    assert loss.item() == told["loss"].item()


def test_reach_p_multiplier_rises_with_the_violation() -> None:
    """d loss / d dual = -price (mean violation - slack^2), alone; the pose pays price * violation, alone."""
    term, model = registry.get("loss", "reach_p"), tiny(metric="max")
    roll, named = leaves(model, term)
    for reached in (0.2, 5.0):  # far below one action per step, and far above
        cfg = term.settings(multiplier=7.0, slack=0.1)
        p = (named["p"] / model.metric(named["p"][:, :-1], named["p"][:, 1:]).max() * reached).detach().requires_grad_()
        loss = term(model, Rollout(roll.batch, {"p": p}, generator()), cfg)
        dual, pull = torch.autograd.grad(loss, [model.lagrange_log_multiplier, p])
        step = model.metric(p[:, :-1], p[:, 1:])
        over = (step - 1).clamp_min(0).square()[roll.batch.connected(1)].mean() - cfg.slack**2
        price = cfg.multiplier * torch.exp(cfg.price_rate * model.lagrange_log_multiplier)
        torch.testing.assert_close(dual, -price * over)
        assert (dual < 0) == (reached > 1), "broken: the optimiser raises the dual; kept: it lowers it"
        push = term(model, Rollout(roll.batch, {"p": p}, generator()), term.settings(multiplier=1e-9, slack=0.1))
        (spread,) = torch.autograd.grad(push, p)
        (cost,) = torch.autograd.grad(price * over, p)
        torch.testing.assert_close(pull, spread + cost, atol=1e-5, rtol=1e-4)
