"""What an action does to z, to p and to the picture: is it the same everywhere?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth
from isochrone.evals.model_access import fresh, needs, numpy


@register("metric", "actions")
@needs("encode_image", "update")
@torch.no_grad()
def actions(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """Per action, over its ordinary moves from every place: length and consistency of its effect on p and z.

    Consistency is the mean cosine between one effect and the mean effect of its action (1: a vector per action would
    do, which is what the prototypes e_p assume). `_cosine` (K, K) compares the mean effects of the actions.
    """
    moves = truth.moves[truth.moves.ordinary]
    kinds = moves.kind.numpy()
    present = np.unique(kinds)
    if not len(present):
        return {}
    names = truth.spec.action.names
    label = [names[k] if truth.spec.action.discrete and k < len(names) else f"a{k}" for k in present]
    out: dict[str, Any] = {"label": np.array(label)}
    before = fresh(model, truth.env.draw(moves.start), truth.spec.action)
    after = fresh(model, truth.env.draw(moves.next), truth.spec.action)
    effects = {"z": numpy(after.z - before.z)}
    if hasattr(before, "p"):
        effects["p"] = numpy(after.p - before.p)
    for name, effect in effects.items():
        mean = np.stack([effect[kinds == k].mean(0) for k in present])  # (K, .)
        unit = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
        length = np.linalg.norm(effect, axis=-1)
        own = np.searchsorted(present, kinds)
        cosine = (effect * unit[own]).sum(-1) / np.maximum(length, 1e-12)
        out |= {
            f"{name}_consistency": float(cosine.mean()),
            f"{name}_length_spread": float(length.std() / max(length.mean(), 1e-12)),
            f"{name}_length": np.array([[length[kinds == k].mean(), length[kinds == k].std()] for k in present]),
            f"{name}_cosine": unit @ unit.T,
        }
    return out
