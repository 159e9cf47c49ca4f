"""How much a belief learns from each frame: KL of posterior and prior, dimension by dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.model_access import blind, device_of, generator, needs, numpy
from isochrone.evals.stats import bootstrap_mean

USED = 0.01
"""Nats per frame from which a dimension of z counts as used."""


@register("metric", "nats")
@needs("observe", "latent")
@blind
@torch.no_grad()
def nats(model: Any, batch: Batch, truth: Any, rng: torch.Generator) -> dict[str, Any]:
    """KL(posterior | prior) per frame in nats, the dimensions of z that carry it, and how sure the two are.

    First rows of episodes are told apart: there the prior has seen nothing.
    """
    batch = batch.to(device_of(model))
    roll = model.observe(batch, {"posterior", "prior"}, rng if rng.device == device_of(model) else None)
    kl = numpy(roll.posterior.kl(roll.prior))  # (B, T, S)
    first = numpy(batch.first) > 0
    first[:, 0] = True
    later = kl[~first]  # (N, S)
    episodes = np.array([row[~f].sum(-1).mean() for row, f in zip(kl, first, strict=True) if (~f).any()])
    each = later.mean(0)
    entropy = {name: numpy(roll.fields[name].entropy())[~first].mean(0) for name in ("posterior", "prior")}
    return _spread(roll.posterior, roll.prior, first) | {
        "per_dimension": np.sort(each)[::-1].copy(),
        "entropy_posterior": np.sort(entropy["posterior"])[::-1].copy(),
        "entropy_prior": np.sort(entropy["prior"])[::-1].copy(),
        "by_row": np.nanmean(np.where(first, np.nan, kl.sum(-1))[:, 1:], 0),
        "per_frame": float(later.sum(-1).mean()),
        "per_frame.interval": bootstrap_mean(episodes, generator(rng), 400),
        "first_frame": float(kl[first].sum(-1).mean()),
        "used": float((each > USED).sum()),
        "posterior": float(entropy["posterior"].sum()),
        "prior": float(entropy["prior"].sum()),
    }


def _spread(q: Any, p: Any, first: np.ndarray) -> dict[str, float]:
    """Of beliefs that have a mean: how far the prior's lies from the posterior's, and how wide both are.

    prior_error: root mean square, in units of the posterior means' own spread (1: as good as always expecting their
    mean); sigma_posterior, sigma_prior: mean standard deviation, where there is one; noise: the share of z's variance
    that says nothing of the frame.
    """
    if not hasattr(q, "mean"):
        return {}
    told, guess = (numpy(x.mean)[~first] for x in (q, p))  # (N, S)
    scale = max(float(((told - told.mean(0)) ** 2).mean()), 1e-12)
    out = {"prior_error": float(np.sqrt(((guess - told) ** 2).mean() / scale)), "prior_error.floor": 1.0}
    if hasattr(q, "std"):
        out |= {
            "sigma_posterior": float(numpy(q.std)[~first].mean()),
            "sigma_prior": float(numpy(p.std)[~first].mean()),
        }
        drawn = float((numpy(q.std)[~first] ** 2).mean())
        out["noise"] = drawn / (drawn + scale)
    return out
