"""Does the gradient pass where it should, inside losses and through time? Checks that groups of weights do not show.

A group of weights moves if one of its weights does, so a loss whose second view is stopped, or a filter whose belief
is cut after every row, still moves all the groups that it declares. Two things are looked at here:

Losses: every rollout field that a loss reads, and every call of what it uses, gets a gradient, except those that it
declares `constant`, which get none.

Models: what the next state, the last row of the filter, or the last step of an open-loop rollout depends on gets the
gradient of that effect, compared with finite differences: each part of the state and the action in `step` and
`imagine`; the action and the encoding of the first two rows in `filter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core.protocols import ObservesInStages
from isochrone.core.types import Batch, Rollout, tree_map
from isochrone.losses.loss import Loss
from isochrone.losses.objective import TrainingObjective

Rng = Callable[[], torch.Generator]
"""A new generator that draws the same numbers every time."""


def tensors_of(value: Any) -> list[Tensor]:
    """Every floating-point tensor in a nest of Structs, dicts and sequences."""
    out: list[Tensor] = []

    def collect(x: Tensor) -> Tensor:
        if x.is_floating_point() and x.numel():
            out.append(x)
        return x

    for part in value if isinstance(value, (tuple, list)) else [value]:
        tree_map(collect, part)
    return out


def size_of_gradient(value: Tensor, inputs: Sequence[Tensor], signed: bool = False) -> float:
    """Sum of the absolute (or `signed`) gradient of a scalar with respect to tensors; 0 where no path leads there."""
    inputs = [x for x in inputs if x.requires_grad]
    if not value.requires_grad or not inputs:
        return 0.0
    grads = torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True)
    return sum(float((g if signed else g.abs()).sum()) for g in grads if g is not None)


# --- losses


def loss_leaks(objective: TrainingObjective, probes: Sequence[Batch], rng: Rng) -> list[str]:
    """One sentence for each field or call that passes no gradient although a loss does not declare it constant, or that
    passes one although it does."""
    out = []
    for name, loss in objective.losses.items():
        sizes: dict[str, list[float]] = {}  # what is read or called -> the largest gradient of each call
        constant = loss.constants(objective.model.modes)
        for batch in probes:
            for what, found in _gradients_inside(objective, loss, batch, rng()).items():
                before = sizes.get(what, [0.0] * len(found))
                sizes[what] = [max(pair) for pair in zip(before, found, strict=False)]
            if all(min(found) > 0 for what, found in sizes.items() if what not in constant):
                break  # a hinge may need another probe, most losses do not
        for what, found in sizes.items():
            thing = f"'{what}'" if len(found) < 2 else f"call {found.index(min(found)) + 1} of '{what}'"
            if what in constant and max(found, default=0.0) > 0:
                out.append(f"loss '{name}' declares '{what}' constant, but passes it a gradient")
            if what not in constant and min(found, default=1.0) == 0:
                out.append(f"loss '{name}' passes no gradient to {thing}, and does not declare it constant")
    return out


def _gradients_inside(
    objective: TrainingObjective, loss: Loss, batch: Batch, rng: torch.Generator
) -> dict[str, list[float]]:
    """{field that the loss reads or thing that it uses: size of the gradient of each call}."""
    rollout = objective.observe(batch, loss.reads, rng)
    # Copies, so that what passes through another field is not counted.
    fields = {name: tree_map(lambda x: x.view_as(x), rollout.fields[name]) for name in loss.reads}
    read = {name: [x for x in tensors_of(value) if x.requires_grad] for name, value in fields.items()}
    settings = loss.probe_settings(objective.configs[loss.name].settings)
    parts = objective.learner.parts
    with recorded_calls(parts, loss.uses) as calls:
        copy = Rollout(rollout.batch, {**rollout.fields, **fields}, rng, rollout.progress)
        value = loss(objective.model, copy, settings, **{part: parts[part] for part in loss.parts})
    found = {name: [size_of_gradient(value, tensors)] for name, tensors in read.items() if tensors}
    return found | {path: [size_of_gradient(value, made) for made in outputs] for path, outputs in calls.items()}


@contextmanager
def recorded_calls(parts: Mapping[str, nn.Module], paths: frozenset[str]) -> Iterator[dict[str, list[list[Tensor]]]]:
    """{path: the tensors that each call returned} of the modules and methods at these paths, such as 'model.metric'."""
    calls: dict[str, list[list[Tensor]]] = {}
    with ExitStack() as stack:
        for path in sorted(paths):
            part, *names = path.split(".")
            owner: Any = parts[part]
            for name in names[:-1]:
                owner = getattr(owner, name)
            thing = getattr(owner, names[-1]) if names else owner
            note = partial(_note, calls, path)
            if isinstance(thing, nn.Module):
                stack.callback(thing.register_forward_hook(lambda _, __, made, note=note: note(made)).remove)
            elif callable(thing):
                setattr(owner, names[-1], lambda *a, call=thing, note=note, **k: note(call(*a, **k)))
                stack.callback(delattr, owner, names[-1])
        yield calls


def _note(calls: dict[str, list[list[Tensor]]], path: str, made: Any) -> Any:
    if torch.is_grad_enabled():  # otherwise it is part of a target
        calls.setdefault(path, []).append(tensors_of(made))
    return made


# --- models

ROWS = 3
"""Windows that models are probed with: an effect shows in few."""
Function = Callable[[Mapping[str, Tensor]], list[Tensor]]
"""Named inputs, one entry per row of the batch -> outputs."""


def model_leaks(model: Any, batch: Batch, needs: frozenset[str], rng: Rng) -> list[str]:
    """One sentence for each input of `step`, `imagine`, `filter` and the open-loop fields among `needs` that has no
    effect, or gets another gradient than the effect that it has."""
    if not isinstance(model, ObservesInStages):
        return []  # a model of somebody else's making need not observe in these three parts
    batch = batch[:ROWS]
    batch = batch.replace(first=torch.zeros_like(batch.first), last=torch.zeros_like(batch.last))  # one episode
    needs = needs & {"open_loop", "overshoot"} | {"states"}
    with torch.no_grad():
        fields = model.encode(batch, needs, rng())
        states = model.observe(batch, {"states"}, rng()).states
    dtype = next(model.parameters()).dtype
    try:  # finite differences need more digits
        model.double()
        fields, states, batch = (tree_map(_double, x) for x in (fields, states, batch))
        return [
            *_step_leaks(model, states[:, -2], batch, rng),
            *(_filter_leaks(model, fields, batch, rng) if model.remembers else ()),
            *_open_loop_leaks(model, fields, batch, needs - {"states"}, rng),
        ]
    finally:
        model.to(dtype)


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _step_leaks(model: ObservesInStages, state: Any, batch: Batch, rng: Rng) -> Iterator[str]:
    parts = {name: x for name, x in vars(state).items() if x.is_floating_point() and x.numel()}
    actions = batch.action[:, -4:]

    def passing(state: Any) -> list[Tensor]:
        return [x for name, part in vars(state).items() if name not in model.step_stops for x in tensors_of(part)]

    def next_state(given: Mapping[str, Tensor]) -> list[Tensor]:
        return passing(model.step(state.replace(**{n: given[n] for n in parts}), given["action"], rng()))

    def fourth_state(given: Mapping[str, Tensor]) -> list[Tensor]:
        sequence = torch.cat([given["action"][:, None], actions[:, 1:]], 1)
        begin = state.replace(**{n: given[n] for n in parts})
        return passing(model.imagine(begin, sequence[:, None], rng())[:, :, -1])

    inputs = {**parts, "action": batch.action[:, -2]}
    yield from _faults("the next state", next_state, inputs, model, model.step_ignores)
    inputs = {**parts, "action": actions[:, 0]}
    yield from _faults("the fourth imagined state", fourth_state, inputs, model, model.step_ignores)


def _filter_leaks(model: ObservesInStages, fields: Mapping[str, Any], batch: Batch, rng: Rng) -> Iterator[str]:
    encoded = {name: x for name, x in fields.items() if isinstance(x, Tensor) and x.is_floating_point()}

    def last_row(row: int, given: Mapping[str, Tensor]) -> list[Tensor]:
        changed = {name: _with_row(encoded[name], row, given[name]) for name in encoded}
        moved = batch.replace(action=_with_row(batch.action, row, given["action"]))
        made = model.filter(moved, {**fields, **changed}, frozenset({"states"}), rng())
        return [x[:, -1] for value in made.values() for x in tensors_of(value)]

    for row in (0, 1):
        inputs = {**{name: x[:, row] for name, x in encoded.items()}, "action": batch.action[:, row]}
        unread = [name for name in encoded if not _has_effect(partial(last_row, row), inputs, name)]
        ignored = frozenset(unread) if len(unread) < len(encoded) else frozenset()  # one of them is enough
        yield from _faults(
            f"the last row of the filter after row {row}", partial(last_row, row), inputs, model, ignored
        )


def _open_loop_leaks(
    model: ObservesInStages, fields: Mapping[str, Any], batch: Batch, needs: frozenset[str], rng: Rng
) -> Iterator[str]:
    with torch.no_grad():
        filtered = model.filter(batch, fields, needs, rng()) if needs else {}
    shifts = {name: batch.action.new_zeros(()) for name in filtered}

    def last_step(field: str, given: Mapping[str, Tensor]) -> list[Tensor]:
        shifted = {name: tree_map(partial(_plus, given[name]), value) for name, value in filtered.items()}
        moved = batch.replace(action=batch.action + given["action"])
        made = model.heads(moved, {**fields, **shifted}, frozenset({field}), rng())[field]
        return [x[:, :, -1] for x in tensors_of(made)]

    for field in sorted(needs):
        inputs = {**shifts, "action": batch.action.new_zeros(())}
        unread = frozenset(name for name in shifts if not _has_effect(partial(last_step, field), inputs, name))
        yield from _faults(f"the last step of '{field}'", partial(last_step, field), inputs, model, unread)


def _plus(shift: Tensor, x: Tensor) -> Tensor:
    return x + shift if x.is_floating_point() else x


def _with_row(x: Tensor, row: int, value: Tensor) -> Tensor:
    return torch.cat([x[:, :row], value[:, None], x[:, row + 1 :]], 1)


def _faults(
    what: str, function: Function, inputs: Mapping[str, Tensor], model: ObservesInStages, ignored: frozenset[str]
) -> Iterator[str]:
    """What is wrong with the gradient from `what`, which the function returns, to each of its inputs."""
    for name in inputs:
        analytic, numeric, noise = _derivatives(function, inputs, name)
        has_effect = _has_effect(function, inputs, name)
        if name not in ignored and not has_effect:
            if analytic == 0 or model.exact_gradient:  # a sample of classes may stay the same though its odds change
                yield f"{what} does not depend on '{name}'"
        elif has_effect and analytic == 0:
            yield f"{what} depends on '{name}', but passes it no gradient"
        elif model.exact_gradient and abs(analytic - numeric) > 1e-3 * max(abs(analytic), abs(numeric)) + noise:
            yield f"{what} passes '{name}' another gradient ({analytic:.3g}) than its effect ({numeric:.3g})"


def _derivatives(function: Function, inputs: Mapping[str, Tensor], name: str) -> tuple[float, float, float]:
    """The derivative of a sum of the outputs along one direction of an input, by autograd and by finite differences;
    and the rounding error of the latter."""
    x, size = inputs[name], 1e-6
    direction = torch.cos(torch.arange(x.numel(), dtype=x.dtype, device=x.device)).view_as(x)

    def value(along: Tensor) -> Tensor:
        outputs = function({**inputs, name: x + along * direction})
        return torch.stack([_weighted_sum(out) for out in outputs]).sum()

    along = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
    with torch.enable_grad():
        analytic = size_of_gradient(value(along), [along], signed=True)
    with torch.no_grad():
        high, low = float(value(along + size)), float(value(along - size))
    return analytic, (high - low) / (2 * size), 1e-14 * (abs(high) + abs(low)) / size


def _has_effect(function: Function, inputs: Mapping[str, Tensor], name: str) -> bool:
    """Does the function return something else when this input is exchanged between the rows of the batch?"""
    x = inputs[name]
    with torch.no_grad():
        before = function(inputs)
        after = function({**inputs, name: 1 - (x.roll(1, 0) if x.dim() else x)})
    return any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _weighted_sum(x: Tensor) -> Tensor:
    """A sum in which nothing cancels: layer norms would take the gradient of a plain one."""
    return (x * torch.linspace(0.5, 1.5, x.numel(), device=x.device, dtype=x.dtype).view_as(x)).sum()
