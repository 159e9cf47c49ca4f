"""Liveness names what is dead: identities, copies, constants, zeros, satisfied hinges; and passes what is alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tinymodel import generator, objective, tiny, weighted, windows

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.losses.liveness import Liveness, liveness
from isochrone.losses.loss import Loss, LossConfig
from isochrone.losses.objective import TrainingObjective

IDENTITIES = ("additivity_dp", "rollout_kstep_p")


def total_of(model: Any, **terms: Callable[..., Any]) -> TrainingObjective:
    """A sum of terms made up here, which read p and z."""
    total = objective(model, weighted(jepa=1.0))
    total.losses = {
        name: Loss(name, fn, frozenset(["pose"]), frozenset(["p", "z"]), "here") for name, fn in terms.items()
    }
    total.configs = dict.fromkeys(terms, LossConfig())
    return total


def faults(**terms: Callable[..., Any]) -> list[str]:
    return liveness(total_of(tiny(), **terms), windows()).faults


# --- the negative control


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_running_sum_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(UserError) as caught:
        objective(tiny(pose="summed"), {"jepa": LossConfig(), name: LossConfig()})
    said = str(caught.value)
    assert said.startswith(f"loss '{name}' is refused: with pose=summed p is the sum of the steps")
    assert f"loss.{name}=0" in said
    assert "\n" not in said


def test_every_other_term_of_the_notes_takes_a_running_sum() -> None:
    notes = registry.get("recipe", "zhp_original")().loss
    objective(tiny(pose="summed"), {name: c for name, c in notes.items() if name not in IDENTITIES})


def untrained(**changes: Any) -> Liveness:
    notes = registry.get("recipe", "zhp_original")().loss
    return liveness(objective(tiny(pose="summed", **changes), notes, allow_dead_losses=True), windows())


def test_liveness_reports_exactly_the_two_identities() -> None:
    found = untrained()
    named = [fault for fault in found.faults if "is an identity" in fault]
    assert [fault.split("'")[1] for fault in named] == list(IDENTITIES)
    assert len(found.faults) == 2
    assert all("whatever the weights" in fault for fault in named)


@pytest.mark.parametrize("scale", [0.1, 3.0])  # steps of 0.04 and of 10 actions
def test_they_are_identities_at_any_size_of_step(scale: float) -> None:
    """Rounding grows with the steps; the verdict must not turn on it within what steps can be."""
    model = tiny(pose="summed")
    with torch.no_grad():
        for weight in model.delta_p.parameters():
            weight *= scale
    found = liveness(
        objective(model, dict.fromkeys([*IDENTITIES, "scale_dp"], LossConfig()), allow_dead_losses=True),
        windows(),
    )
    assert {fault.split("'")[1] for fault in found.faults if "identity" in fault} == set(IDENTITIES)


# --- what else can be dead


def test_copies_are_named_whatever_their_weight() -> None:
    def a(model, roll, cfg):
        return roll.p.square().sum(-1).mean()

    assert faults(a=a, b=lambda m, r, c: 3 * a(m, r, c) + 1) == [
        "'a' and 'b' are copies: their gradients agree to a cosine of 1.00000; keep one"
    ]
    assert faults(a=a, b=lambda m, r, c: r.p.abs().sum(-1).mean()) == []
    assert faults(a=a, opposite=lambda m, r, c: -a(m, r, c)) == [], "opposed is not the same"


def test_a_real_term_under_another_name_is_a_copy() -> None:
    total = objective(tiny(), weighted(rollout_kstep_h=1.0, jepa=1.0, reach_p=1.0))
    total.losses["again"], total.configs["again"] = total.losses["reach_p"], total.configs["reach_p"]
    found = liveness(total, windows()).faults
    # draws inside one pass go on from each other, so a copy that draws its own pairs agrees only nearly
    assert found == [] or "'reach_p' and 'again' are copies" in found[0]
    total.losses["again"], total.configs["again"] = total.losses["jepa"], total.configs["jepa"]
    assert "'jepa' and 'again' are copies" in liveness(total, windows()).faults[0]


def test_constants_zeros_and_satisfied_hinges_are_named() -> None:
    zero = "'x' is identically zero or already satisfied: value 0.0e+00 on every probe, whatever the weights"
    assert faults(x=lambda m, r, c: torch.tensor(3.0)) == ["'x' is a constant: it has no gradient"]
    assert faults(x=lambda m, r, c: r.z.mean().detach()) == ["'x' is out of reach of every weight: it has no gradient"]
    assert faults(x=lambda m, r, c: r.p.sum() * 0) == [zero]
    assert faults(x=lambda m, r, c: torch.zeros(())) == [zero]
    assert faults(x=lambda m, r, c: torch.relu(r.p.square().mean() - 1e9)) == [zero]
    assert faults(x=lambda m, r, c: (r.p - r.p.clone() * 1).square().sum())[0].startswith("'x' is")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(bad: float) -> None:
    (fault,) = faults(x=lambda m, r, c: r.p.mean() * bad)
    assert fault.startswith("'x' is not finite")


def test_a_hinge_that_wakes_on_one_probe_is_alive() -> None:
    first = windows()[0].obs["image"]
    assert faults(x=lambda m, r, c: r.p.square().mean() * float(torch.equal(r.batch.obs["image"], first))) == []


def test_vicreg_with_nothing_left_to_do_is_asleep_and_said_so() -> None:
    term = registry.get("loss", "vicreg")
    nothing = LossConfig(settings=term.settings(invariance=0, variance=0, covariance=0))
    total = objective(tiny(), {"vicreg": nothing})
    assert "'vicreg' is identically zero" in liveness(total, windows()).faults[0]


# --- what is alive


def fresh(name: str, **changes: Any) -> TrainingObjective:
    return objective(tiny(**changes), registry.get("recipe", name)().loss)


@pytest.mark.parametrize("name", ["zhp", "zhp_original"])
def test_every_term_of_the_recipe_is_alive_at_the_start(name: str) -> None:
    found = liveness(fresh(name), windows())
    assert found.faults == []
    assert len(found.table().splitlines()) == len(found.probes) == len(registry.get("recipe", name)().loss)


def test_every_term_of_zhp_is_alive_after_a_hundred_steps() -> None:
    total = fresh("zhp")
    optimizer = torch.optim.Adam(total.model.parameters(), 1e-3)
    before = liveness(total, windows())
    batches = windows(10, batch=3)
    for step in range(100):
        optimizer.zero_grad()
        loss, _ = total(batches[step % 10], generator(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(total.model.parameters(), 100.0)
        optimizer.step()
    after = liveness(total, windows())
    assert after.faults == []
    for name in ("recon_multi_box", "jepa"):
        assert sum(after.probes[name].values) < sum(before.probes[name].values), f"{name} does not fall"


def test_the_verdict_repeats() -> None:
    total = fresh("zhp")
    one, two = liveness(total, windows()), liveness(total, windows())
    assert one == two
    assert all(p.grad is None for p in total.model.parameters())


# --- the sum


def test_weights_are_checked_and_zero_means_not_built() -> None:
    with pytest.raises(UserError, match=r"loss.jepa.weight = -1.0: must be at least 0"):
        objective(tiny(), weighted(jepa=-1.0))
    with pytest.raises(UserError, match="no loss has a weight above 0"):
        objective(tiny(), weighted(jepa=0.0))
    with pytest.raises(UserError, match="no loss called 'jeppa'; did you mean 'jepa'"):
        objective(tiny(), weighted(jeppa=1.0))
    total = objective(tiny(), weighted(jepa=1.0, recon_multi_box=0.0, additivity_dp=0))
    assert set(total.losses) == {"jepa"}
    assert total.needs == {"z", "z_hat"}
