"""What does it learn from a frame? KL of posterior and prior, dimension by dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isochrone.evals.context import Context, recorded
from isochrone.evals.figure import THEMES, figure, has
from isochrone.evals.metric import Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import numpy, numpy_generator
from isochrone.evals.stats import bootstrap_mean

ACTIVE = 0.01
"""Nats per frame from which a dimension of z counts as active."""

INFORMATION = Question(
    "information",
    "What does it learn from a frame?",
    "KL between the belief after the frame and before it. Dimensions at zero carry nothing; a prior much less certain "
    "than the posterior makes plans uncertain.",
    order=50,
)


@family("latent_information", INFORMATION, needs=[recorded, "posterior", "prior"], draw_order=7)
@metric("latent_information.kl_per_frame", "KL per frame, nats")
@metric("latent_information.kl_first_frame", "… on the first frame of an episode")
@metric("latent_information.active_dimensions", "dimensions of z that carry more than 0.01 nats", "{:.0f}")
@metric("latent_information.posterior_entropy", "entropy of the posterior, nats")
@metric("latent_information.prior_entropy", "entropy of the prior, nats")
@metric(
    "latent_information.prior_error",
    "error of the prior's mean, in units of the posterior means' spread",
    "{:.3f}",
    baseline="always predicting the mean",
)
@metric("latent_information.noise_share", "share of noise in z's variance", "%")
@metric("latent_information.posterior_std", "σ of the posterior", "{:.3f}")
@metric("latent_information.prior_std", "σ of the prior", "{:.3f}")
@torch.no_grad()
def latent_information(context: Context) -> dict[str, Any]:
    """KL(posterior | prior) per frame in nats, the dimensions of z that carry it, and the entropy of both.

    First rows of episodes count apart: the prior there depends on no frame.
    """
    rng, device = context.rng, context.device
    batch = context.rows.to(device)
    rollout = context.model.observe(batch, {"posterior", "prior"}, rng if rng.device == device else None)
    kl = numpy(rollout.posterior.kl(rollout.prior))  # (B, T, S)
    first = numpy(batch.first) > 0
    first[:, 0] = True
    later = kl[~first]  # (N, S)
    episodes = np.array([row[~f].sum(-1).mean() for row, f in zip(kl, first, strict=True) if (~f).any()])
    each = later.mean(0)
    entropy = {name: numpy(rollout.fields[name].entropy())[~first].mean(0) for name in ("posterior", "prior")}
    return _moments(rollout.posterior, rollout.prior, first) | {
        "per_dimension": np.sort(each)[::-1].copy(),
        "entropy_posterior": np.sort(entropy["posterior"])[::-1].copy(),
        "entropy_prior": np.sort(entropy["prior"])[::-1].copy(),
        "by_row": np.nanmean(np.where(first, np.nan, kl.sum(-1))[:, 1:], 0),  # NaN where every row is a first one
        "kl_per_frame": Estimate(later.sum(-1).mean(), bootstrap_mean(episodes, numpy_generator(rng), 400)),
        "kl_first_frame": float(kl[first].sum(-1).mean()),
        "active_dimensions": float((each > ACTIVE).sum()),
        "posterior_entropy": float(entropy["posterior"].sum()),
        "prior_entropy": float(entropy["prior"].sum()),
    }


def _moments(posterior: Any, prior: Any, first: Bool[np.ndarray, "B T"]) -> dict[str, Any]:
    """Of distributions that have a mean: the distance between both means, and their spreads.

    prior_error: root mean square, in units of the posterior means' own spread (1: as good as always predicting their
    mean); posterior_std, prior_std: mean standard deviation, where there is one; noise_share: the share of z's variance
    that does not depend on the frame.
    """
    if not hasattr(posterior, "mean"):
        return {}
    mean, predicted = (numpy(x.mean)[~first] for x in (posterior, prior))  # (N, S)
    scale = float(((mean - mean.mean(0)) ** 2).mean())
    out: dict[str, Any] = {"prior_error": Refused("the posterior's mean is the same for every frame")}
    if scale > 1e-12 * max(1.0, float((mean**2).max())):
        out["prior_error"] = Estimate(np.sqrt(((predicted - mean) ** 2).mean() / scale), baseline=1.0)
    if hasattr(posterior, "std"):
        noise = float((numpy(posterior.std)[~first] ** 2).mean())
        total = noise + scale
        out |= {
            "posterior_std": float(numpy(posterior.std)[~first].mean()),
            "prior_std": float(numpy(prior.std)[~first].mean()),
            "noise_share": noise / total if total else Refused("z has no variance"),
        }
    return out


@figure("latent_information", INFORMATION, order=50)
def information_by_dimension(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """KL and entropy per dimension of z, and KL along the window."""
    if not has(arrays, "latent_information.per_dimension", "latent_information.by_row"):
        return None
    t = THEMES[theme]
    drawing = Figure(figsize=(10.6, 3.4))
    by_dimension, entropy, rows = drawing.subplots(1, 3)
    kl = np.asarray(arrays["latent_information.per_dimension"])
    by_dimension.bar(np.arange(1, len(kl) + 1), kl, color=t.cycle[0], width=0.8)
    by_dimension.set_title("KL per dimension of z, nats")
    by_dimension.set_xlabel("dimension, by size")
    for name, colour in (("posterior", t.cycle[0]), ("prior", t.cycle[2])):
        values = np.asarray(arrays[f"latent_information.entropy_{name}"])
        entropy.plot(np.arange(1, len(values) + 1), values, color=colour, label=name)
    entropy.set_title("Entropy per dimension, nats")
    entropy.set_xlabel("dimension, by size")
    entropy.legend()
    by_row = np.asarray(arrays["latent_information.by_row"])
    rows.plot(np.arange(1, len(by_row) + 1), by_row, color=t.cycle[0])
    rows.set_title("KL per frame along the window")
    rows.set_xlabel("row")
    rows.set_ylim(bottom=0)
    for ax in (by_dimension, entropy, rows):
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return drawing
