"""Does p add up? No-op, inverse, order of steps and odometry, where nothing is in the way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth, stepped
from isochrone.evals.model_access import both_ways, fresh, generator, needs, numpy
from isochrone.evals.stats import bootstrap_mean

DRIFT = 16
WORD = 8
WALKS = 512


class Walks(NamedTuple):
    """Free walks of the true physics: starts, actions, and the states after each action."""

    start: Any  # State[N]
    actions: Tensor  # (N, H, A)
    after: Any  # State[N, H]


@register("metric", "algebra")
@needs("distance", "update", "step")
@torch.no_grad()
def algebra(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """No-op ratio, inverse residual, path independence, odometry drift; lengths are d_p, the larger of both directions.

    Where the model has `odometry(p, h, a)`, the pose is the running sum of its steps; `.._imagined` repeats every
    number with the pose that a planner sees (`step`). Only free space counts: no wall, door or pipe on the way.
    """
    moves, roll = truth.moves, Imagined(model, truth)
    out: dict[str, Any] = {}
    walks = free_walks(truth, DRIFT, WALKS, rng)
    words = free_walks(truth, WORD, WALKS, rng)
    swapped = _swapped(truth, words, rng)
    inverse = _inverse(truth)
    for suffix, summed in _poses(model):
        ends = roll(moves.start, moves.action[:, None], summed)[:, 0]
        length = both_ways(model, roll.believe(moves.start), ends)  # (N,)
        step = float(length[moves.ordinary.numpy()].mean())
        scale = max(step, 1e-9)
        out[f"step_length{suffix}"] = step
        still = _noops(truth)
        if still is not None:
            out |= _stated(f"noop_ratio{suffix}", length[still] / scale, 1.0, rng)
        if inverse is not None:
            back = roll(inverse.start, inverse.actions, summed)[:, -1]
            gap = both_ways(model, roll.believe(inverse.start), back)
            out |= _stated(f"inverse_residual{suffix}", gap / scale, 1.0, rng)
        if swapped is not None:
            one = roll(swapped[0].start, swapped[0].actions, summed)[:, -1]
            two = roll(swapped[1].start, swapped[1].actions, summed)[:, -1]
            out |= _stated(f"path_dependence{suffix}", both_ways(model, one, two) / scale, None, rng)
        if walks is not None:
            out |= _drift(model, roll, walks, summed, suffix, rng)
    return out


def _poses(model: Any) -> list[tuple[str, bool]]:
    return [("", True), ("_imagined", False)] if hasattr(model, "odometry") else [("", False)]


def _stated(name: str, values: np.ndarray, floor: float | None, rng: torch.Generator) -> dict[str, Any]:
    out: dict[str, Any] = {name: float(values.mean()), f"{name}.interval": bootstrap_mean(values, generator(rng), 400)}
    return out if floor is None else out | {f"{name}.floor": floor}


class Imagined:
    """Imagined states along given actions, each started from the picture of a true state."""

    def __init__(self, model: Any, truth: Truth) -> None:
        self.model, self.truth = model, truth

    def believe(self, state: Any) -> Any:
        """State[N] of the model, from the picture alone."""
        return fresh(self.model, self.truth.env.draw(state), self.truth.spec.action)

    def __call__(self, start: Any, actions: Tensor, summed: bool) -> Any:
        """State[N, H]; with `summed` its p is the running sum of the odometry."""
        now = self.believe(start)
        actions, pose, states = actions.to(now.p.device), now.p, []
        for k in range(actions.shape[1]):
            if summed:
                pose = pose + self.model.odometry(pose, now.h, actions[:, k])
            now = self.model.step(now, actions[:, k])
            states.append(now.replace(p=pose) if summed else now)
        return type(now).stack(states, dim=1)


def _noops(truth: Truth) -> np.ndarray | None:
    """Rows of `truth.moves` that do nothing; None where the space has no such action."""
    if truth.spec.action.noop is None:
        return None
    idle = truth.spec.action.idle((1,))
    return ((truth.moves.action == idle).all(-1) & ~truth.moves.moved).numpy()


def _inverse(truth: Truth) -> Walks | None:
    """Moves whose inverse truly leads back to where they began; None where there are none."""
    spec, moves = truth.spec.action, truth.moves
    if spec.discrete and spec.inverse is None:
        return None
    back = spec.inverted(moves.action)
    home, jumped, moved = stepped(truth.env, moves.next, back)
    same = (home.position - moves.start.position).abs().amax(-1) < 1e-3
    keep = moves.ordinary & moved & ~jumped & same
    if not keep.any():
        return None
    after = type(home).stack([moves.next, home], dim=1)
    return Walks(moves.start[keep], torch.stack([moves.action, back], 1)[keep], after[keep])


def free_walks(truth: Truth, length: int, count: int, rng: torch.Generator) -> Walks | None:
    """Random walks in which every action does what it does in the open: each moves the box as far as its best, unpiped.

    At each step the action is drawn among those that are free there. None where no place has a free action.
    """
    env, tried = truth.env, truth.actions
    open_step = _open_steps(truth)
    pick = torch.randint(len(truth.places.position), (count,), generator=rng, device=rng.device).cpu()
    start = state = truth.places[pick]
    states, actions, alive = [], [], torch.ones(count, dtype=torch.bool)
    for _ in range(length):
        free = []
        for kind, action in enumerate(tried):
            after, jumped, _ = stepped(env, state, action.expand(count, -1))
            step = after.position - state.position
            free.append(~jumped & ((step - open_step[kind]).abs().amax(-1) < 1e-3))
        options = torch.stack(free, -1).float()  # (N, K)
        alive &= options.any(-1)
        options[~options.any(-1)] = 1.0
        kind = torch.multinomial(options, 1, generator=rng if rng.device.type == "cpu" else None)[:, 0]
        actions.append(tried[kind])
        state = env.transition(state, actions[-1])
        states.append(state)
    if not alive.any():
        return None
    after = type(state).stack(states, dim=1)
    return Walks(start[alive], torch.stack(actions, 1)[alive], after[alive])


def _open_steps(truth: Truth) -> Tensor:
    """(K, 2) px: what each tried action does where nothing is in the way, the commonest displacement from rest."""
    moves = truth.moves
    step = (moves.next.position - moves.start.position).round(decimals=3)
    out = torch.zeros(len(truth.actions), 2)
    for kind in range(len(out)):
        mine = step[(moves.kind == kind) & ~moves.teleported]
        values, counts = mine.unique(dim=0, return_counts=True)
        blocked = (values == 0).all(-1) & (len(values) > 1)
        out[kind] = values[counts.masked_fill(blocked, 0).argmax()]
    return out


def _swapped(truth: Truth, words: Walks | None, rng: torch.Generator) -> tuple[Walks, Walks] | None:
    """The same actions in another order, where both orders truly end at the same place."""
    if words is None:
        return None
    count, length = words.actions.shape[:2]
    order = torch.rand(count, length, generator=rng, device=rng.device).cpu().argsort(1)
    shuffled = words.actions[torch.arange(count)[:, None], order]
    open_step, state, free = _open_steps(truth), words.start, torch.ones(count, dtype=torch.bool)
    states = []
    for k in range(length):
        after, jumped, _ = stepped(truth.env, state, shuffled[:, k])
        kind = (shuffled[:, k, None] == truth.actions).all(-1).float().argmax(-1)
        free &= ~jumped & ((after.position - state.position - open_step[kind]).abs().amax(-1) < 1e-3)
        state = after
        states.append(state)
    free &= (state.position - words.after[:, -1].position).abs().amax(-1) < 1e-3
    free &= (order != torch.arange(length)).any(-1)
    if not free.any():
        return None
    after = type(state).stack(states, dim=1)
    return Walks(words.start[free], words.actions[free], words.after[free]), Walks(
        words.start[free], shuffled[free], after[free]
    )


def _drift(model: Any, roll: Imagined, walks: Walks, summed: bool, suffix: str, rng: torch.Generator) -> dict[str, Any]:
    """d_p between the imagined pose and the pose measured there, against the number of steps. Floor: the pose stays."""
    count, length = walks.actions.shape[:2]
    imagined = roll(walks.start, walks.actions, summed)  # State[N, H]
    there = roll.believe(walks.after.map(lambda x: x.flatten(0, 1))).map(lambda x: x.unflatten(0, (count, length)))
    home = roll.believe(walks.start).map(lambda x: x[:, None].expand(count, length, *x.shape[1:]))
    off = numpy(torch.maximum(model.distance(imagined, there), model.distance(there, imagined)))  # (N, H)
    still = numpy(torch.maximum(model.distance(home, there), model.distance(there, home)))
    low, high = bootstrap_mean(off[:, -1] / length, generator(rng), 400)
    return {
        f"drift{suffix}": float(off[:, -1].mean() / length),
        f"drift{suffix}.interval": (low, high),
        f"drift{suffix}.floor": float(still[:, -1].mean() / length),
        f"drift_steps{suffix}": np.arange(1, length + 1),
        f"drift_curve{suffix}": np.quantile(off, [0.1, 0.5, 0.9], axis=0).T,  # (H, 3)
        f"drift_mean{suffix}": off.mean(0),
        f"drift_still{suffix}": still.mean(0),
    }
