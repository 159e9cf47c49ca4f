"""Late rows reach early frames and actions, in every model and every variant; and what stops that is found."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tinymodel import VARIANTS, fits, generator, made, tiny, windows
from torch import Tensor

from isochrone.core import registry
from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Batch
from isochrone.losses.flow import model_leaks

pytestmark = pytest.mark.slow
MODELS = registry.names("model")
EVERY = [(m, v) for m in MODELS for v, changes in VARIANTS.items() if fits(m, changes)]
each_variant = pytest.mark.parametrize(("name", "variant"), EVERY)
OPEN_LOOP = frozenset({"open_loop", "overshoot"})


def episode() -> Batch:
    """Windows that lie within one episode."""
    batch = windows(1)[0]
    return batch.replace(first=torch.zeros_like(batch.first), last=torch.zeros_like(batch.last))


def leaks(model: Any, batch: Batch | None = None) -> list[str]:
    return model_leaks(model, batch or episode(), OPEN_LOOP & model.provides, generator)


@each_variant
def test_the_last_row_reaches_the_first_frame_and_action(name: str, variant: str) -> None:
    changes = {"stop_grad_to_encoder": False, "stop_grad_to_predictor": False}
    attached = changes if fits(name, changes) and variant != "running sum" else {}
    model, batch = tiny(name, **{**VARIANTS[variant], **attached}), episode()
    image = (batch.obs["image"] / 255).requires_grad_()
    action = batch.action.clone().requires_grad_()
    states = model.observe(batch.replace(obs={"image": image}, action=action), {"states"}, generator()).states
    late = states.feat()[:, -1]
    weights = torch.linspace(0.5, 1.5, late.numel()).view_as(late)
    frames, actions = torch.autograd.grad((late * weights).sum(), [image, action], allow_unused=True)
    if not model.remembers:
        assert actions is None or not bool(actions.any()), "features are those of the frame alone"
        return
    if name == "zhp" and not attached:
        assert frames is None or not bool(frames[:, :-1].any()), "stopped: stop_grad_to_encoder"
    for row in range(image.shape[1]) if attached or name != "zhp" else ():
        assert bool(frames[:, row].any()), f"frame {row}"
    for row in range(image.shape[1] - 1):
        assert bool(actions[:, row].any()), f"action {row}"
    assert not bool(actions[:, -1].any()), "the last action leads nowhere"


@each_variant
def test_every_input_gets_the_gradient_of_its_effect(name: str, variant: str) -> None:
    model = made(name, variant)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert leaks(model) == []
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


# --- what is found


def cut_step(model: Any, state: Any, action: Tensor, rng: Any = None, *, stop: str = "", drop: str = "") -> Any:
    """`step` with one input stopped or cut off."""
    inputs = {"z": state.z, "h": state.h, "action": action}
    if stop:
        inputs[stop] = stop_gradient(inputs[stop], "a leak")
    if drop:
        inputs[drop] = 0 * inputs[drop]
    return type(model).step(model, state.replace(z=inputs["z"], h=inputs["h"]), inputs["action"], rng)


@pytest.mark.parametrize("name", ["zhp", "rssm"])
@pytest.mark.parametrize("part", ["z", "h", "action"])
def test_a_step_with_an_input_stopped_or_cut_off_is_found(name: str, part: str) -> None:
    model = tiny(name)
    model.step = partial(cut_step, model, stop=part)
    assert f"the next state depends on '{part}', but passes it no gradient" in leaks(model)
    model.step = partial(cut_step, model, drop=part)
    assert f"the next state does not depend on '{part}'" in leaks(model)


def test_a_belief_of_one_step_is_found() -> None:
    model = tiny("zhp")
    whole = model.cell.step
    model.cell.step = lambda gates, h: whole(gates, stop_gradient(h, "a leak"))
    found = leaks(model)
    for row in (0, 1):
        assert f"the last row of the filter after row {row} depends on 'action', but passes it no gradient" in found
    assert any("another gradient" in line for line in found), "of h in one step, which also passes through the gate"


def test_a_belief_that_is_cut_in_part_is_found() -> None:
    """The sample of an RSSM carries some of the gradient that h no longer does."""
    model = tiny("rssm")
    whole = model.dynamics.cell.forward
    model.dynamics.cell.forward = lambda x, h: whole(x, stop_gradient(h, "a leak"))
    found = [line for line in leaks(model) if line.startswith("the last row of the filter")]
    assert found
    assert all("another gradient" in line for line in found)
