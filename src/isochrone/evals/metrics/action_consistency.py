"""Do actions add up in p? No-op, inverse, order of steps, odometry; and the effect of each action on z and p."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from isochrone.core.protocols import Encodes, GroundTruth, HasDistance, HasOdometry
from isochrone.evals.context import Context
from isochrone.evals.figure import ERROR, THEMES, figure, has
from isochrone.evals.ground_truth import RecordedTruth, true_step
from isochrone.evals.metric import Estimate, Refused, family, metric, metric_of
from isochrone.evals.metrics.reach import COLLAPSED, REACHABILITY
from isochrone.evals.model_access import numpy, numpy_generator, single_frame_states, symmetric_distance
from isochrone.evals.stats import bootstrap_mean, jackknife_interval

DRIFT = 16
"""Steps of the walks on which the odometry drifts."""
WORD = 8
"""Actions of the words whose order is changed."""
WALKS = 512
"""Walks of each kind."""
LEAST_STEP = 0.5
"""d_p of one step below which p does not count actions."""
COLLAPSED_POSE = "a step does not move the pose: p has collapsed, and there is no step to measure in"
ONE_STEP = "one whole step"
STAYS = "the pose stays"


class Walks(NamedTuple):
    """Walks of the true physics: starts, actions, and the states after each action."""

    start: Any  # State[N]
    actions: Tensor  # (N, H, A)
    after: Any  # State[N, H]


@family("action_consistency", REACHABILITY, needs=[HasDistance], env=[GroundTruth], draw_order=2)
@metric(
    "action_consistency.noop_ratio", "the no-op moves the pose by, steps", "{:.3f}", baseline=ONE_STEP, target="<= 0.05"
)
@metric(
    "action_consistency.inverse_residual",
    "an action and its inverse move the pose by, steps",
    "{:.3f}",
    baseline=ONE_STEP,
    target="<= 0.15",
)
@metric("action_consistency.path_dependence", "the same actions in another order differ by, steps", "{:.3f}")
@metric("action_consistency.drift", "odometry drift, actions per step", "{:.3f}", baseline=STAYS, target="<= 0.1")
@metric("action_consistency.drift_imagined", "… of the imagined pose, actions per step", "{:.3f}", baseline=STAYS)
@metric("action_consistency.step_length", "length of one step in d_p", detail=True)
@metric("action_consistency.step_length_imagined", "… imagined", detail=True)
@metric("action_consistency.noop_ratio_imagined", "imagined no-op, steps", "{:.3f}", baseline=ONE_STEP, detail=True)
@metric(
    "action_consistency.inverse_residual_imagined", "imagined inverse, steps", "{:.3f}", baseline=ONE_STEP, detail=True
)
@metric("action_consistency.path_dependence_imagined", "imagined path dependence, steps", "{:.3f}", detail=True)
@torch.no_grad()
def action_consistency(context: Context) -> dict[str, Any]:
    """No-op ratio, inverse residual, path dependence, odometry drift; lengths are d_p, the larger of both directions.

    Where the model has odometry, the pose is the running sum of its steps; `.._imagined` repeats every number with the
    pose that a planner uses (`step`). Only free space counts: no wall, door or pipe on the way.
    """
    model, truth, rng = context.model, context.truth, context.rng
    moves, roll = truth.transitions, ImaginedStates(model, truth)
    out: dict[str, Any] = {}
    walks = free_walks(truth, DRIFT, WALKS, rng)
    words = free_walks(truth, WORD, WALKS, rng)
    swapped = _swapped(truth, words, rng)
    inverse, noops, ordinary = _inverse(truth), _noops(truth), moves.ordinary.numpy()
    for suffix, summed in _poses(model):
        ends = roll(moves.start, moves.action[:, None], summed)[:, 0]
        length = symmetric_distance(model, roll.start(moves.start), ends)  # (N,)
        steps = PerPlace.of(length, moves.place, ordinary)
        out[f"step_length{suffix}"] = steps.mean
        if noops is not None:
            out[f"noop_ratio{suffix}"] = _in_steps(PerPlace.of(length, moves.place, noops), steps)
        if inverse is not None:
            walk, place = inverse
            back = roll(walk.start, walk.actions, summed)[:, -1]
            gap = symmetric_distance(model, roll.start(walk.start), back)
            out[f"inverse_residual{suffix}"] = _in_steps(PerPlace.of(gap, place), steps)
        if swapped is not None:
            end_a = roll(swapped[0].start, swapped[0].actions, summed)[:, -1]
            end_b = roll(swapped[1].start, swapped[1].actions, summed)[:, -1]
            out[f"path_dependence{suffix}"] = _path_dependence(symmetric_distance(model, end_a, end_b), steps.mean, rng)
        if walks is not None:
            out |= _drift(model, roll, walks, summed, suffix, rng)
            if not steps.mean >= LEAST_STEP:
                out[f"drift{suffix}"] = Refused(
                    f"one step moves the pose by {steps.mean:.2g} in d_p, which should be about 1: it does not count "
                    f"actions, and an error in it is not one in actions"
                )
    return out


def _poses(model: Any) -> list[tuple[str, bool]]:
    """(suffix of the names, is the pose the sum of the odometry?)."""
    return [("", True), ("_imagined", False)] if isinstance(model, HasOdometry) else [("", False)]


@dataclass(frozen=True)
class PerPlace:
    """Lengths of transitions, summed over those of each place: they are not independent of each other."""

    total: np.ndarray  # (C,)
    count: np.ndarray  # (C,)

    @classmethod
    def of(cls, length: np.ndarray, place: Tensor, rows: np.ndarray | None = None) -> PerPlace:
        """From lengths (N,) with their places (N,); `rows` selects some of them."""
        at, most = place.numpy(), int(place.max()) + 1
        length, at = (length, at) if rows is None else (length[rows], at[rows])
        return cls(np.bincount(at, length, most), np.bincount(at, minlength=most))

    @property
    def mean(self) -> float:
        return float(self.total.sum() / self.count.sum()) if self.count.any() else float("nan")

    @property
    def without_each(self) -> np.ndarray:
        """(C,): the mean without the transitions of each place."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.total.sum() - self.total) / (self.count.sum() - self.count)


def _in_steps(lengths: PerPlace, steps: PerPlace) -> Estimate | Refused:
    """The mean length in units of one step; the interval is over places."""
    if not steps.mean > COLLAPSED:
        return Refused(COLLAPSED_POSE)
    ratio, places = lengths.mean / steps.mean, min(len(lengths.total), len(steps.total))
    without = lengths.without_each[:places] / steps.without_each[:places]
    return Estimate(ratio, jackknife_interval(ratio, without), 1.0)


def _path_dependence(gap: np.ndarray, step: float, rng: torch.Generator) -> Estimate | Refused:
    """The mean gap between the ends of two walks, in units of one step."""
    interval = bootstrap_mean(gap, numpy_generator(rng), 400)
    if not step > COLLAPSED:
        return Refused(COLLAPSED_POSE)
    return Estimate(gap.mean() / step, (interval[0] / step, interval[1] / step))


class ImaginedStates:
    """Imagined states along given actions, each started from the image of a true state."""

    def __init__(self, model: Any, truth: RecordedTruth) -> None:
        self.model, self.truth = model, truth

    def start(self, state: Any) -> Any:
        """State[N] of the model, from the image of each true state alone."""
        return single_frame_states(self.model, self.truth.env.draw(state), self.truth.spec.action)

    def __call__(self, start: Any, actions: Tensor, summed: bool) -> Any:
        """State[N, H]; with `summed` its p is the running sum of the odometry."""
        now = self.start(start)
        actions, pose, states = actions.to(now.p.device), now.p, []
        for k in range(actions.shape[1]):
            if summed:
                pose = pose + self.model.odometry(pose, now.h, actions[:, k])
            now = self.model.step(now, actions[:, k])
            states.append(now.replace(p=pose) if summed else now)
        return type(now).stack(states, dim=1)


def _noops(truth: RecordedTruth) -> np.ndarray | None:
    """Rows of `truth.transitions` without movement by the no-op; None where the space has none."""
    if truth.spec.action.noop is None:
        return None
    idle = truth.spec.action.idle((1,))
    return ((truth.transitions.action == idle).all(-1) & ~truth.transitions.moved).numpy()


def _inverse(truth: RecordedTruth) -> tuple[Walks, Tensor] | None:
    """Transitions that their inverse action truly reverses, and their places (N,); None where there are none."""
    spec, moves = truth.spec.action, truth.transitions
    if spec.discrete and spec.inverse is None:
        return None
    back = spec.inverted(moves.action)
    home, jumped, moved = true_step(truth.env, moves.next, back)
    same = (home.position - moves.start.position).abs().amax(-1) < 1e-3
    keep = moves.ordinary & moved & ~jumped & same
    if not keep.any():
        return None
    after = type(home).stack([moves.next, home], dim=1)
    return Walks(moves.start[keep], torch.stack([moves.action, back], 1)[keep], after[keep]), moves.place[keep]


def free_walks(truth: RecordedTruth, length: int, count: int, rng: torch.Generator) -> Walks | None:
    """Random walks in free space: every action has the effect that it has where nothing is in the way.

    At each step the action is sampled from those that are free there. None where no place has a free action.
    """
    env, probes = truth.env, truth.actions
    open_step = _open_steps(truth)
    selected = torch.randint(len(truth.places.position), (count,), generator=rng, device=rng.device).cpu()
    start = state = truth.places[selected]
    states, actions, alive = [], [], torch.ones(count, dtype=torch.bool)
    for _ in range(length):
        free = []
        for kind, action in enumerate(probes):
            after, jumped, _ = true_step(env, state, action.expand(count, -1))
            step = after.position - state.position
            free.append(~jumped & ((step - open_step[kind]).abs().amax(-1) < 1e-3))
        options = torch.stack(free, -1).float()  # (N, K)
        alive &= options.any(-1)
        options[~options.any(-1)] = 1.0
        kind = torch.multinomial(options, 1, generator=rng if rng.device.type == "cpu" else None)[:, 0]
        actions.append(probes[kind])
        state = env.transition(state, actions[-1])
        states.append(state)
    if not alive.any():
        return None
    after = type(state).stack(states, dim=1)
    return Walks(start[alive], torch.stack(actions, 1)[alive], after[alive])


def _open_steps(truth: RecordedTruth) -> Tensor:
    """(K, 2) px: the effect of each probe action in free space, its most frequent displacement from rest."""
    moves = truth.transitions
    step = (moves.next.position - moves.start.position).round(decimals=3)
    out = torch.zeros(len(truth.actions), 2)
    for kind in range(len(out)):
        steps = step[(moves.kind == kind) & ~moves.teleported]
        values, counts = steps.unique(dim=0, return_counts=True)
        blocked = (values == 0).all(-1) & (len(values) > 1)
        out[kind] = values[counts.masked_fill(blocked, 0).argmax()]
    return out


def _swapped(truth: RecordedTruth, words: Walks | None, rng: torch.Generator) -> tuple[Walks, Walks] | None:
    """The same actions in another order, where both orders truly end at the same place."""
    if words is None:
        return None
    count, length = words.actions.shape[:2]
    order = torch.rand(count, length, generator=rng, device=rng.device).cpu().argsort(1)
    shuffled = words.actions[torch.arange(count)[:, None], order]
    open_step, state, free = _open_steps(truth), words.start, torch.ones(count, dtype=torch.bool)
    states = []
    for k in range(length):
        after, jumped, _ = true_step(truth.env, state, shuffled[:, k])
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


def _drift(
    model: Any, roll: ImaginedStates, walks: Walks, summed: bool, suffix: str, rng: torch.Generator
) -> dict[str, Any]:
    """d_p between the imagined pose and the pose of the true state, against the number of steps."""
    count, length = walks.actions.shape[:2]
    imagined = roll(walks.start, walks.actions, summed)  # State[N, H]
    true = roll.start(walks.after.map(lambda x: x.flatten(0, 1))).map(lambda x: x.unflatten(0, (count, length)))
    home = roll.start(walks.start).map(lambda x: x[:, None].expand(count, length, *x.shape[1:]))
    error = numpy(torch.maximum(model.distance(imagined, true), model.distance(true, imagined)))  # (N, H)
    baseline = numpy(torch.maximum(model.distance(home, true), model.distance(true, home)))
    interval = bootstrap_mean(error[:, -1] / length, numpy_generator(rng), 400)
    return {
        f"drift{suffix}": Estimate(error[:, -1].mean() / length, interval, float(baseline[:, -1].mean() / length)),
        f"drift_steps{suffix}": np.arange(1, length + 1),
        f"drift_curve{suffix}": np.quantile(error, [0.1, 0.5, 0.9], axis=0).T,  # (H, 3)
        f"drift_mean{suffix}": error.mean(0),
        f"drift_baseline{suffix}": baseline.mean(0),
    }


@family("action_effects", REACHABILITY, needs=[Encodes], env=[GroundTruth], draw_order=1)
@metric("action_effects.z_consistency", "mean cosine of one effect in z and its action's mean effect", detail=True)
@metric("action_effects.z_length_spread", "relative spread of the effects' length in z", detail=True)
@metric("action_effects.p_consistency", "mean cosine of one effect in p and its action's mean effect", detail=True)
@metric("action_effects.p_length_spread", "relative spread of the effects' length in p", detail=True)
@torch.no_grad()
def action_effects(context: Context) -> dict[str, Any]:
    """Per action, over its ordinary transitions from every place: length and consistency of its effect on p and z.

    Consistency is the mean cosine between one effect and the mean effect of its action (1: a vector per action would
    do, which is what the prototypes e_p assume). `_cosine` (K, K) compares the mean effects of the actions.
    """
    model, truth = context.model, context.truth
    moves = truth.transitions[truth.transitions.ordinary]
    kinds = moves.kind.numpy()
    present = np.unique(kinds)
    if not len(present):
        return {}
    names = truth.spec.action.names
    label = [names[k] if truth.spec.action.discrete and k < len(names) else f"a{k}" for k in present]
    out: dict[str, Any] = {"label": np.array(label)}
    before = single_frame_states(model, truth.env.draw(moves.start), truth.spec.action)
    after = single_frame_states(model, truth.env.draw(moves.next), truth.spec.action)
    effects = {"z": numpy(after.z - before.z)}
    if "p" in model.provides:
        effects["p"] = numpy(after.p - before.p)
    for name, effect in effects.items():
        mean = np.stack([effect[kinds == k].mean(0) for k in present])  # (K, .)
        unit = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
        length = np.linalg.norm(effect, axis=-1)
        row = np.searchsorted(present, kinds)
        seen = length > 1e-6
        cosine = (effect[seen] * unit[row[seen]]).sum(-1) / length[seen]
        nothing = Refused(f"no action changes {name}")
        out |= {
            f"{name}_consistency": float(cosine.mean()) if seen.any() else nothing,
            f"{name}_length_spread": float(length.std() / length.mean()) if seen.any() else nothing,
            f"{name}_length": np.array([[length[kinds == k].mean(), length[kinds == k].std()] for k in present]),
            f"{name}_cosine": unit @ unit.T,
        }
    return out


# --- figures --------------------------------------------------------------------------------------------------------


@figure("drift", REACHABILITY, order=81)
def drift(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Error of the summed odometry and, where the model has it, of the imagined pose, against the number of steps."""
    if not has(arrays, "action_consistency.drift_steps", "action_consistency.drift_curve"):
        return None
    t, at, curve = (
        THEMES[theme],
        np.asarray(arrays["action_consistency.drift_steps"]),
        np.asarray(arrays["action_consistency.drift_curve"]),
    )
    drawing = Figure(figsize=(10.6, 3.3))
    ax = drawing.subplots()
    both = has(arrays, "action_consistency.drift_mean_imagined")
    ax.fill_between(at, curve[:, 0], curve[:, 2], color=t.cycle[0], alpha=0.2, lw=0, label="central 80 % of walks")
    ax.plot(
        at,
        arrays["action_consistency.drift_mean"],
        color=t.cycle[0],
        label="summed odometry, mean" if both else "imagined, mean",
    )
    if both:
        ax.plot(
            at, arrays["action_consistency.drift_mean_imagined"], color=t.cycle[4], ls="-.", label="imagined pose, mean"
        )
    ax.plot(at, arrays["action_consistency.drift_baseline"], color=t.cycle[1], ls="--", label="baseline: constant pose")
    declared = metric_of("action_consistency.drift")
    limit = declared.target.limit if declared and declared.target else 0.0
    if limit:
        ax.plot(at, limit * at, color=t.cycle[3], lw=1.3, ls=":", label=f"target: {limit:g} action per step")
    ax.set(xlabel="steps in free space", title="Error of the pose, actions", xlim=(at[0], at[-1]))
    baseline_max = float(np.max(arrays["action_consistency.drift_baseline"]))
    top = 1.35 * max(float(curve.max()), limit * float(at[-1]), baseline_max)
    ax.set_ylim(0, top)
    ax.legend(loc="upper left", ncols=2)
    return drawing


@figure(
    "actions",
    caption="Length and direction of each action's mean effect; one vector per action fits where the spread is small.",
    order=201,
)
def effects_of_actions(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Length of each action's effect on z and p, and the cosines of the mean effects."""
    spaces = [s for s in ("z", "p") if has(arrays, f"action_effects.{s}_length", "action_effects.label")]
    if not spaces:
        return None
    t, label = THEMES[theme], [str(x) for x in arrays["action_effects.label"]]
    drawing = Figure(figsize=(10.6, 3.2))
    axes = drawing.subplots(1, 2 * len(spaces), squeeze=False)[0]
    for k, space in enumerate(spaces):
        length, cosine = (
            np.asarray(arrays[f"action_effects.{space}_length"]),
            np.asarray(arrays[f"action_effects.{space}_cosine"]),
        )
        lengths, matrix = axes[2 * k], axes[2 * k + 1]
        lengths.bar(label, length[:, 0], yerr=length[:, 1], color=t.cycle[0], ecolor=t.ink, width=0.65)
        lengths.set_title(f"Length of Δ{space}")
        lengths.grid(axis="x", visible=False)
        matrix.imshow(cosine, cmap=ERROR, vmin=-1, vmax=1)
        for (i, j), value in np.ndenumerate(cosine):
            dark = abs(value) > 0.6
            matrix.text(
                j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color="#ffffff" if dark else "#22262b"
            )
        matrix.set_xticks(range(len(label)), label)
        matrix.set_yticks(range(len(label)), label)
        matrix.grid(False)
        matrix.set_title(f"Cosine of mean Δ{space}")
        for ax in (lengths, matrix):
            ax.tick_params(axis="x", labelrotation=40 if max(map(len, label)) > 3 else 0, labelsize=9)
    return drawing
