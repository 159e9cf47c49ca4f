"""Where z and p disagree there is a shortcut. Scored against the pipes that are really there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth
from isochrone.evals.model_access import filtered, flat, fresh, generator, needs, numpy
from isochrone.evals.stats import auroc, auroc_interval


@register("metric", "disagreement")
@needs("distance", "update")
@torch.no_grad()
def disagreement(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """AUROC of the model's disagreement for pipe transitions against ordinary ones (moved, no pipe).

    Every transition of the world counts once; `auroc_recorded` uses the recorded ones with their filtered beliefs.
    Floor: 0.5, a coin. Nothing on maps without pipes.
    """
    moves = truth.moves
    keep = (moves.ordinary | moves.teleported).nonzero()[:, 0]
    piped = moves.teleported[keep].numpy()
    if not piped.any() or piped.all():
        return {}
    action = truth.spec.action
    before = fresh(model, truth.env.draw(moves.start[keep]), action)
    after = fresh(model, truth.env.draw(moves.next[keep]), action)
    score = _score(model, before, after)
    draw = generator(rng)
    out: dict[str, Any] = {
        "auroc": auroc(score, piped),
        "auroc.interval": auroc_interval(score, piped, draw),
        "auroc.floor": 0.5,
        "pipe_moves": float(piped.sum()),
        "score": score,
        "piped": piped,
        "step_z": numpy(model.distance(before, after, "z")),
        "step_p": numpy(model.distance(before, after, "p")),
    }
    states = filtered(model, batch, action)
    seen = (truth.moved | truth.teleported).flatten().numpy()
    label = truth.teleported.flatten().numpy()[seen]
    if label.any() and not label.all():
        pairs = _score(model, flat(states[:, :-1]), flat(states[:, 1:]))
        out["auroc_recorded"] = auroc(pairs[seen], label)
    return out


def _score(model: Any, a: Any, b: Any) -> np.ndarray:
    """The model's own disagreement; for a model without one, z-distance per unit of p."""
    if hasattr(model, "disagreement"):
        return numpy(model.disagreement(a, b))
    return numpy(model.distance(a, b, "z") / (1 + model.distance(a, b, "p")))
