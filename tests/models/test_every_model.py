"""Whatever a world model must do, over every registered one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tinymodel import VARIANTS, filtered, fits, generator, made, same, windows
from torch import Tensor

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.gradient import frozen
from isochrone.core.protocols import WorldModel
from isochrone.core.types import Struct
from isochrone.losses.routes import check_routes

MODELS = registry.names("model")
EVERY = [(m, v) for m in MODELS for v, changes in VARIANTS.items() if fits(m, changes)]
each_model = pytest.mark.parametrize("name", MODELS)
each_variant = pytest.mark.parametrize(("name", "variant"), EVERY)


@each_variant
def test_groups_partition_the_parameters_of_a_world_model(name: str, variant: str) -> None:
    model = made(name, variant)
    check_routes(model.groups(), {}, [], model)
    assert isinstance(model, WorldModel)
    assert all(model.groups().values()), "a group without parameters says nothing"


@each_variant
def test_imagine_equals_repeated_steps(name: str, variant: str) -> None:
    model, rng = made(name, variant), generator()
    state = filtered(model, windows(1)[0])[-1][:3].map(lambda x: x.double() if x.is_floating_point() else x)
    actions = model.action.sample((3, 4, 5), rng).double()
    model = model.double()  # five steps multiply rounding
    with torch.no_grad():
        rolled = model.imagine(state, actions)
        assert rolled.feat().shape[:3] == (3, 4, 5)
        for n in range(4):
            now = state
            for k in range(5):
                now = model.step(now, actions[:, n, k])
                same(rolled[:, n, k], now)


@each_model
def test_a_step_takes_any_leading_shape(name: str) -> None:
    model = made(name)
    state = filtered(model, windows(1)[0])[-1]
    wide = state.map(lambda x: torch.stack([x, x]))
    action = model.action.sample((2, 6), generator())
    same(model.step(wide, action)[1], model.step(state, action[1]))


@each_variant
def test_filter_equals_observe_row_by_row(name: str, variant: str) -> None:
    """The states of `update`, frame by frame, are the rows of `observe`; nothing is drawn."""
    model, batch = made(name, variant), windows(1)[0]
    needs = model.provides & {"z", "h", "p", "feat"}
    roll = model.observe(batch, needs)
    for t, state in enumerate(filtered(model, batch)):
        for field in needs - ({"p"} if variant == "running sum" else set()):
            value = state.feat() if field == "feat" else getattr(state, field)
            torch.testing.assert_close(value, roll.fields[field][:, t], atol=1e-5, rtol=1e-4)


@each_variant
def test_later_rows_do_not_change_earlier_ones(name: str, variant: str) -> None:
    model, batch = made(name, variant), windows(1)[0]
    fields = sorted(model.provides & {"z", "z_in", "h", "z_hat", "p", "dp", "feat", "embed"})
    roll = model.observe(batch, fields, generator())
    for t in (1, 5, 10):
        image, action = batch.obs["image"].clone(), batch.action.clone()
        image[:, t] = 255 - image[:, t]
        action[:, t] = action[:, t].roll(1, -1)
        other = model.observe(batch.replace(obs={"image": image}, action=action), fields, generator())
        for field in fields:
            for b in range(6):
                # h_t is the belief before frame t is seen; where an episode begins it is made of that frame, and
                # z_hat_{t-1} = Hz(h_t), a row over the episode's end that no loss counts, with it
                begins = t if batch.first[b, t] else t + 1
                until = {"h": begins, "z_hat": begins - 1}.get(field, t)
                torch.testing.assert_close(other.fields[field][b, :until], roll.fields[field][b, :until])
            assert not torch.equal(other.fields[field], roll.fields[field]), f"{field} never looks at row {t}"


@each_variant
def test_a_window_across_episodes_equals_its_episodes_alone(name: str, variant: str) -> None:
    model = made(name, variant)
    fields = sorted(model.provides & ({"z", "h", "p", "feat"} if variant != "running sum" else {"z", "h"}))
    for batch in windows(1):
        roll = model.observe(batch, fields)
        for b in range(6):
            begins = [0, *(t for t in range(1, 12) if batch.first[b, t])]
            for begin, end in zip(begins, [*begins[1:], 12], strict=True):
                apart = model.observe(batch[b : b + 1, begin:end], fields)
                for field in fields:
                    torch.testing.assert_close(
                        roll.fields[field][b, begin:end], apart.fields[field][0], atol=1e-5, rtol=1e-4
                    )


@each_model
def test_only_what_is_needed_is_computed(name: str) -> None:
    model, batch, called = made(name), windows(1)[0], []
    for part, child in model.named_children():
        child.register_forward_hook(lambda m, args, out, part=part: called.append(part))
    model.observe(batch, {"z"} if "z" in model.provides else {"embed"}, generator())
    assert set(called) <= {"encoder"}, "all frames in one batch"
    assert called.count("encoder") == 1, "all frames in one batch"


@each_model
def test_a_need_that_the_model_cannot_fill_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"model '{name}' cannot fill \['aura'\]; it provides "):
        made(name).observe(windows(1)[0], {"aura"})


@each_variant
def test_observe_is_a_function_of_weights_batch_and_rng(name: str, variant: str) -> None:
    model, batch = made(name, variant), windows(1)[0]
    torch.manual_seed(1)
    one = model.observe(batch, model.provides, generator(3))
    torch.manual_seed(2)
    two = model.observe(batch, model.provides, generator(3))
    for field, value in one.fields.items():
        assert _equal(value, two.fields[field]), field
    if "open_loop" in model.provides:
        assert not torch.equal(one.open_loop.start, model.observe(batch, {"open_loop"}, generator(4)).open_loop.start)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, Struct):
        return all(_equal(getattr(a, k), getattr(b, k)) for k in vars(a))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@each_model
def test_states_can_be_indexed_and_stacked(name: str) -> None:
    model = made(name)
    states = filtered(model, windows(1)[0])
    stacked = type(states[0]).stack(states, dim=1)
    assert stacked.feat().shape[:2] == (6, 12)
    same(stacked[2, 5], states[5][2])
    same(stacked[:, 3:5][:, 1], states[4])
    same(type(states[0]).cat([states[0], states[1]])[6:], states[1])
    assert stacked.to("cpu").feat().equal(stacked.feat())


@each_model
def test_a_frozen_part_gives_equal_values_and_gets_no_gradient(name: str) -> None:
    model = made(name)
    image = windows(1)[0].obs["image"][:, 0] / 255
    seen = {"image": image} if hasattr(model.encoder, "parts") else image
    torch.testing.assert_close(frozen(model.encoder)(seen), model.encoder(seen), rtol=0, atol=0)
    assert not frozen(model.encoder)(seen).requires_grad


@each_model
def test_acting_ignores_the_action_before_the_first_frame(name: str) -> None:
    model, obs = made(name), {"image": windows(1)[0].obs["image"][:, 0]}
    one, two = (model.update(model.start(6), model.action.sample((6,), generator(s)), obs) for s in (0, 1))
    same(one, two)
    assert not bool(one.fresh.any())


@each_model
def test_only_rows_that_are_first_are_reset(name: str) -> None:
    model, batch = made(name), windows(1)[0]
    state = filtered(model, batch)[4]
    mixed = state.replace(fresh=torch.tensor([True, False] * 3))
    action, obs = batch.action[:, 4], {"image": batch.obs["image"][:, 5]}
    out = model.update(mixed, action, obs)
    same(out[1::2], model.update(state, action, obs)[1::2])
    same(out[::2], model.update(model.start(6), action, obs)[::2])
