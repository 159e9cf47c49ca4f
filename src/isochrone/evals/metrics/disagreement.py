"""Where z and p disagree there is a shortcut: scored against the pipes of the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from isochrone.core.protocols import GroundTruth, HasDisagreement, HasDistance
from isochrone.evals.context import Context
from isochrone.evals.figure import THEMES, figure, has
from isochrone.evals.metric import Estimate, family, metric
from isochrone.evals.metrics.reach import REACHABILITY
from isochrone.evals.model_access import filtered, merge_time, numpy, numpy_generator, single_frame_states
from isochrone.evals.stats import auroc, auroc_interval


@family("disagreement", REACHABILITY, needs=[HasDistance], env=[GroundTruth], draw_order=4)
@metric(
    "disagreement.auroc",
    "pipes against ordinary steps, AUROC",
    "{:.3f}",
    baseline="a coin",
    target=">= 0.98",
    watch=True,
)
@metric("disagreement.auroc_recorded", "… over the recorded steps", "{:.3f}", detail=True)
@metric("disagreement.pipe_moves", "steps through a pipe", "{:.0f}", detail=True)
@torch.no_grad()
def disagreement(context: Context) -> dict[str, Any]:
    """AUROC of the model's disagreement for steps through a pipe against ordinary ones (moved, no pipe).

    Every transition of the map counts once; `auroc_recorded` uses the recorded ones with their filtered states.
    Nothing on maps without pipes.
    """
    model, truth = context.model, context.truth
    moves = truth.transitions
    keep = (moves.ordinary | moves.teleported).nonzero()[:, 0]
    piped = moves.teleported[keep].numpy()
    if not piped.any() or piped.all():
        return {}
    action = truth.spec.action
    before = single_frame_states(model, truth.env.draw(moves.start[keep]), action)
    after = single_frame_states(model, truth.env.draw(moves.next[keep]), action)
    score = _score(model, before, after)
    interval = auroc_interval(score, piped, numpy_generator(context.rng))
    out: dict[str, Any] = {
        "auroc": Estimate(auroc(score, piped), interval, 0.5),
        "pipe_moves": float(piped.sum()),
        "score": score,
        "piped": piped,
        "step_z": numpy(model.distance(before, after, "z")),
        "step_p": numpy(model.distance(before, after, "p")),
    }
    states = filtered(model, context.rows, action)
    moving = (truth.moved | truth.teleported).flatten().numpy()
    label = truth.teleported.flatten().numpy()[moving]
    if label.any() and not label.all():
        pairs = _score(model, merge_time(states[:, :-1]), merge_time(states[:, 1:]))
        out["auroc_recorded"] = auroc(pairs[moving], label)
    return out


def _score(model: Any, a: Any, b: Any) -> np.ndarray:
    """The model's own disagreement; for a model without one, z-distance per unit of p."""
    if isinstance(model, HasDisagreement):
        return numpy(model.disagreement(a, b))
    return numpy(model.distance(a, b, "z") / (1 + model.distance(a, b, "p")))


@figure("disagreement", REACHABILITY, order=82)
def histogram(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Histogram of the disagreement; each group is scaled to 100 %, because pipes are rare."""
    if not has(arrays, "disagreement.score"):
        return None
    t, score, piped = THEMES[theme], np.asarray(arrays["disagreement.score"]), np.asarray(arrays["disagreement.piped"])
    drawing = Figure(figsize=(10.6, 2.9))
    ax = drawing.subplots()
    edges = np.linspace(min(0, score.min()), max(score.max(), 1e-9) * 1.02, 61)
    for rows, colour, label in ((~piped, t.cycle[0], "ordinary steps"), (piped, t.cycle[2], "steps by pipe")):
        count = int(rows.sum())
        if count:
            weight = np.full(count, 100 / count)
            ax.hist(score[rows], edges, weights=weight, color=colour, alpha=0.85, label=f"{label} ({count})")
    ax.set(xlabel="disagreement (z far, p near)", title="Share of steps, %")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper center")
    return drawing
