"""What a belief knows of the world: linear probes of position and velocity from features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.model_access import filtered, needs, numpy
from isochrone.evals.probe import r2, ridge

SEEN = 3
"""Rows of an episode that must have been seen before a row counts."""


@register("metric", "knows")
@needs("rewards", "observe", "latent")
@torch.no_grad()
def knows(model: Any, batch: Batch, truth: Any, rng: torch.Generator) -> dict[str, Any]:
    """Held-out error of ridge probes on the filtered features: box position in px, hidden velocity as R^2.

    Whole episodes lie on one side of the split. Floor of the position: its mean.
    """
    if truth is None or not hasattr(truth, "position"):
        return {}
    x = numpy(filtered(model, batch, model.action).feat())[:, SEEN:]  # (B, T, F)
    train = np.arange(len(x)) < (2 * len(x) + 2) // 3
    out: dict[str, Any] = {}
    try:
        place = numpy(truth.position)[:, SEEN:]
        fit = ridge(x[train].reshape(-1, x.shape[-1]), place[train].reshape(-1, 2), "the position probe")
        real = place[~train].reshape(-1, 2)
        guess = fit(x[~train].reshape(-1, x.shape[-1]))
        out["position_error"] = float(np.linalg.norm(guess - real, axis=-1).mean())
        out["position_error.floor"] = float(np.linalg.norm(real - place[train].reshape(-1, 2).mean(0), axis=-1).mean())
        speed = numpy(truth.velocity)[:, SEEN:]
        if speed.size and float(speed.var()) > 1e-9:
            fit = ridge(x[train].reshape(-1, x.shape[-1]), speed[train].reshape(-1, 2), "the velocity probe")
            out["velocity_r2"] = r2(speed[~train].reshape(-1, 2), fit(x[~train].reshape(-1, x.shape[-1])))
            out["velocity_r2.floor"] = 0.0
    except UserError as error:
        out["position_error.refused"] = str(error)
    return out
