"""The gradient contract, proved: every (model, term, mode), on real windows that cross episode ends."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from tinymodel import counted, counter, fits, generator, make_env, tiny, windows

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.gradient import EMA
from isochrone.core.types import Rollout
from isochrone.losses.loss import Loss
from isochrone.losses.routes import GradientReport, check_routes
from isochrone.training.learner import Learner

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "attached": {"stop_grad_to_encoder": False},
    "pose shapes h": {"stop_grad_to_predictor": False},
    "attached, pose shapes h": {"stop_grad_to_encoder": False, "stop_grad_to_predictor": False},
    "decoder detached": {"stop_grad_from_decoder": True},
    "residual": {"metric": "residual"},
    "residual, attached": {"metric": "residual", "stop_grad_to_encoder": False},
    "residual, odometry": {"metric": "residual", "imagine_p": "odometry"},
    "interval": {"metric": "interval"},
    "euclidean": {"metric": "euclidean"},
    "running sum": {"pose": "summed"},
    "running sum, residual": {"pose": "summed", "metric": "residual"},
    "conv": {"encoder": "conv"},
    "continuous": {},
    "vectors": {"symlog": True},
    "categorical": {"classes": 6, "cell": "ln_gru", "norm": "layer", "act": "silu", "reward": "symexp_two_hot"},
    "blocks": {
        "classes": 6,
        "cell": "block_gru",
        "norm": "rms",
        "initial_state": "learned",
        "reward": "symlog_two_hot",
    },
    "decoupled": {"posterior": "decoupled", "rollout_starts": 3},
}
CASES = [(model, mode) for model in registry.names("model") for mode, changes in MODES.items() if fits(model, changes)]
# Settings that choose another path through a formula; routes must not depend on them.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "action_delta_h": [{"hold": "state"}],
    "z_smooth": [{"rho": "huber"}, {"rho": "charbonnier"}, {"gate": False}],
    "kl": [{"dyn": 1.0, "rep": 0.1}, {"dyn": 0.8, "rep": 0.2, "averaged": True}, {"rep": 0.0}],
}


def narrowed(roll: Rollout, reads: frozenset[str]) -> Rollout:
    """Only what the term says it reads: anything else is an error."""
    return Rollout(roll.batch, {k: v for k, v in roll.fields.items() if k in reads}, generator(5))


def losses_of(model: Any) -> dict[str, tuple[Any, frozenset[str]]]:
    """Every registered term that this model, in its mode, can be given; variants as 'name hold=state'."""
    made: dict[str, tuple[Any, frozenset[str]]] = {}
    for name in registry.names("loss"):
        term = registry.get("loss", name)
        try:
            term.check(Learner({"model": model}))
        except UserError:
            continue
        for changes in [{}, *VARIANTS.get(name, [])]:
            cfg = replace(term.settings(), **changes) if term.settings else None
            label = " ".join([name, *(f"{k}={v}" for k, v in changes.items())])
            call = partial(lambda roll, term, cfg: term(model, narrowed(roll, term.reads), cfg), term=term, cfg=cfg)
            made[label] = (call, term.declared(model.groups(), model.modes))
    return made


@cache
def measured(name: str, mode: str) -> tuple[Any, GradientReport]:
    actions = "continuous" if mode == "continuous" else "discrete"
    batches = counted() if mode == "vectors" else windows(actions=actions)
    model = tiny(name, counter().spec if mode == "vectors" else make_env(actions).spec, **MODES[mode])
    if (
        hasattr(model, "reward_head") and model.reward_head.kind != "normal"
    ):  # two-hot heads start at zero, and pass none
        torch.nn.init.normal_(model.reward_head.net.head.weight, std=0.1, generator=generator())
    losses = losses_of(model)
    needs = frozenset().union(*(registry.get("loss", loss.split()[0]).reads for loss in losses))
    probes = [model.observe(batch, needs, generator(i)) for i, batch in enumerate(batches)]
    return model, check_routes(model.groups(), losses, probes, model)


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_every_route_is_as_declared(model: str, mode: str) -> None:
    _, routes = measured(model, mode)
    assert not routes.violations(), "\n".join([*routes.violations(), routes.table()])


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_groups_partition_the_trainable_parameters(model: str, mode: str) -> None:
    made, routes = measured(model, mode)
    groups = made.groups()
    check_routes(groups, {}, [], made)
    assert {g for groups in routes.moved.values() for g in groups} == set(groups)
    assert all(groups.values())
    slow = {id(p) for part in made.modules() if isinstance(part, EMA) for p in part.parameters()}
    assert not slow & {id(p) for ps in groups.values() for p in ps}
    assert {id(p) for ps in groups.values() for p in ps} | slow == {id(p) for p in made.parameters()}


def test_no_term_is_left_unproved() -> None:
    proved = {loss.split()[0] for case in CASES for loss in measured(*case)[1].moved}
    assert proved == set(registry.names("loss"))


def test_probe_windows_cross_episode_ends() -> None:
    for batch in windows():
        assert bool(batch.last[:, :-1].any(1).all()), "every window must hold an episode's end"
    _, routes = measured("zhp", "residual")
    assert routes.moved["reach_p"]["metric"] > 0
    assert routes.moved["geometry_rank_p"]["metric"] > 0


@pytest.mark.parametrize("name", registry.names("loss"))
def test_declarations_name_groups_and_modes_that_exist(name: str) -> None:
    """`declared` leaves out groups that the model lacks, so a misspelt one would pass unseen."""
    term, made = registry.get("loss", name), [measured(*case)[0] for case in CASES]
    groups, modes = (frozenset().union(*sets) for sets in ((m.groups() for m in made), (m.modes for m in made)))
    assert term.updates.union(*term.extra_updates.values(), *term.fewer_updates.values()) <= groups
    assert set(term.extra_updates) | set(term.fewer_updates) | set(term.undefined_in) <= modes


def test_what_a_mode_takes_away_stays_away() -> None:
    made = Loss(
        "x", lambda m, r, c: r.z, frozenset("a"), frozenset(), "", None, {"m": frozenset("b")}, {"n": frozenset("ab")}
    )
    parts = {g: [] for g in "abc"}
    for modes in (["m", "n"], ["n", "m"]):
        assert made.declared(parts, modes) == frozenset()
    assert made.declared(parts, ["m"]) == {"a", "b"}


def test_a_loss_with_missing_rollout_fields_is_refused() -> None:
    term, model = registry.get("loss", "jepa"), tiny()
    with pytest.raises(UserError, match=r"loss 'jepa' reads \['z_hat'\], but model 'zhp' provides .*loss\.jepa=0"):
        model.provides = model.provides - {"z_hat"}
        term.check(Learner({"model": model}))
