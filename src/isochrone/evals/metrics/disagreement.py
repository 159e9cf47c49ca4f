"""Where z and p disagree there is a shortcut: scored against the pipes of the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from isochrone.core.protocols import GroundTruth, HasDisagreement, HasDistance
from isochrone.evals.context import Context
from isochrone.evals.figure import THEMES, figure, has
from isochrone.evals.ground_truth import RecordedTruth
from isochrone.evals.metric import Estimate, Refused, family, metric
from isochrone.evals.metrics.reach import REACHABILITY
from isochrone.evals.model_access import numpy, numpy_generator, single_frame_states
from isochrone.evals.stats import auroc, auroc_interval

MATCHED = 64
"""Maximum number of pairs that look nearer than a pipe's ends, of those that look farther, and of equal ones."""
ALIKE = 0.1
"""Relative difference up to which two displacements look alike."""


@family("disagreement", REACHABILITY, needs=[HasDistance], env=[GroundTruth], draw_order=4)
@metric(
    "disagreement.auroc",
    "pipes against pairs that look as far apart, AUROC",
    "{:.3f}",
    baseline="a coin",
    target=">= 0.98",
    watch=True,
)
@metric("disagreement.pipe_moves", "steps through a pipe", "{:.0f}", detail=True)
@metric("disagreement.pairs", "pairs that look as far apart as a pipe's ends", "{:.0f}", detail=True)
@torch.no_grad()
def disagreement(context: Context) -> dict[str, Any]:
    """AUROC of the model's disagreement for steps through a pipe against pairs of places that look as far apart and are
    more than one step apart (but can be reached).

    Each step is compared with its own pairs, as many that look less far apart as look farther, so that a score which
    does not depend on p is right half of the time. Nothing on maps without pipes.
    """
    model, truth, draw = context.model, context.truth, numpy_generator(context.rng)
    moves = truth.transitions
    keep = (moves.ordinary | moves.teleported).nonzero()[:, 0]
    piped = moves.teleported[keep].numpy()
    if not piped.any() or piped.all():
        return {}
    before = single_frame_states(model, truth.env.draw(moves.start[keep]), truth.spec.action)
    after = single_frame_states(model, truth.env.draw(moves.next[keep]), truth.spec.action)
    out: dict[str, Any] = {
        "pipe_moves": float(piped.sum()),
        "step_z": numpy(model.distance(before, after, "z")),
        "step_p": numpy(model.distance(before, after, "p")),
        "piped": piped,
    }
    matches = matched_pairs(truth, draw)
    if not any(len(pairs) for pairs in matches):
        return out | {
            "auroc": Refused("no two places look as far apart as a pipe's ends and are more than a step apart")
        }
    scores = _score(model, before, after)[piped]
    places = single_frame_states(model, truth.images, truth.spec.action)
    others = [_score(model, places[pairs[:, 0]], places[pairs[:, 1]]) for pairs in matches]
    if not np.isfinite(np.concatenate([scores, *others])).all():
        return out | {"auroc": Refused("the model's distances are not finite")}
    if not out["step_z"].max() > 1e-5:  # a step is about 1 in zhp; rounding, and what keeps norms differentiable: 1e-6
        return out | {"auroc": Refused("z is the same at every place: nothing looks far apart")}
    wins = [auroc(np.r_[s, x], np.arange(1 + len(x)) == 0) for s, x in zip(scores, others, strict=True) if len(x)]
    share, least = float(np.mean(wins)), min(len(x) for x in others if len(x))
    return out | {
        "auroc": Estimate(share, auroc_interval(share, len(wins), least), 0.5),
        "pairs": float(sum(map(len, others))),
        "score_pipes": scores,
        "score_pairs": np.concatenate(others),
    }


def matched_pairs(truth: RecordedTruth, draw: np.random.Generator) -> list[torch.Tensor]:
    """For each step through a pipe, ordered pairs of places (N, 2) that look as far apart as its start and end."""
    pipes = truth.pipes
    visible = np.asarray(truth.env.displacement(pipes.start, pipes.next).cpu(), float)  # (P,)
    by_pipe = np.zeros(truth.table.shape, bool)
    end = truth.env.index(pipes.next).cpu().numpy()
    by_pipe[pipes.place.numpy()[end >= 0], end[end >= 0]] = True
    candidates = np.argwhere(truth.goals & (truth.table > 1) & ~by_pipe)
    candidates = draw.permutation(candidates)
    distance = truth.displacement[candidates[:, 0], candidates[:, 1]]
    return [torch.from_numpy(candidates[_balanced(distance - v, ALIKE * v)]) for v in visible]


def _balanced(off: Float[np.ndarray, " N"], within: float) -> np.ndarray:
    """Entries with |off| <= within, as many below 0 as above it, the nearest first; and some with off = 0."""
    exact = np.flatnonzero(np.abs(off) <= 1e-6)[:MATCHED]
    sides = []
    for side in (off < -1e-6, off > 1e-6):
        rows = np.flatnonzero(side & (np.abs(off) <= within))
        sides.append(rows[np.argsort(np.abs(off[rows]), kind="stable")])
    count = min(MATCHED, *map(len, sides))
    return np.concatenate([exact, *(rows[:count] for rows in sides)])


def _score(model: Any, a: Any, b: Any) -> np.ndarray:
    """The model's own disagreement; for a model without one, z-distance per unit of p."""
    if isinstance(model, HasDisagreement):
        return numpy(model.disagreement(a, b))
    return numpy(model.distance(a, b, "z") / (1 + model.distance(a, b, "p")))


@figure("disagreement", REACHABILITY, order=82)
def histogram(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Histogram of the disagreement; each group is scaled to 100 %, because pipes are rare."""
    if not has(arrays, "disagreement.score_pipes", "disagreement.score_pairs"):
        return None
    t, pipes = THEMES[theme], np.asarray(arrays["disagreement.score_pipes"])
    pairs = np.asarray(arrays["disagreement.score_pairs"])
    drawing = Figure(figsize=(10.6, 2.9))
    ax = drawing.subplots()
    both = np.concatenate([pipes, pairs])
    edges = np.linspace(min(0, both.min()), max(both.max(), 1e-9) * 1.02, 61)
    for score, colour, label in ((pairs, t.cycle[0], "pairs as far apart"), (pipes, t.cycle[2], "steps by pipe")):
        weight = np.full(len(score), 100 / max(len(score), 1))
        ax.hist(score, edges, weights=weight, color=colour, alpha=0.85, label=f"{label} ({len(score)})")
    ax.set(xlabel="disagreement (z far, p near)", title="Share, %")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper center")
    return drawing
