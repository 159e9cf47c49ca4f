"""Odometry drift: the imagined pose against the pose measured there, while walking in free space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.bars import BARS
from isochrone.evals.figures.style import has, styled, theme


@register("figure", "drift")
@styled
def drift(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`algebra.drift_{steps, curve, mean, still}` and, where the model has odometry, their `_imagined` twins."""
    if not has(arrays, "algebra.drift_steps", "algebra.drift_curve"):
        return None
    t, at, curve = theme(name), np.asarray(arrays["algebra.drift_steps"]), np.asarray(arrays["algebra.drift_curve"])
    figure = Figure(figsize=(10.6, 3.3))
    ax = figure.subplots()
    both = has(arrays, "algebra.drift_mean_imagined")
    ax.fill_between(at, curve[:, 0], curve[:, 2], color=t.cycle[0], alpha=0.2, lw=0, label="central 80 % of walks")
    ax.plot(
        at, arrays["algebra.drift_mean"], color=t.cycle[0], label="summed odometry, mean" if both else "imagined, mean"
    )
    if both:
        ax.plot(at, arrays["algebra.drift_mean_imagined"], color=t.cycle[4], ls="-.", label="imagined pose, mean")
    ax.plot(at, arrays["algebra.drift_still"], color=t.cycle[1], ls="--", label="floor: the pose stays")
    limit = BARS["algebra.drift"].limit
    ax.plot(at, limit * at, color=t.cycle[3], lw=1.3, ls=":", label=f"bar: {limit:g} action per step")
    ax.set(xlabel="steps walked in free space", title="Pose off by, actions", xlim=(at[0], at[-1]))
    still = float(np.max(arrays["algebra.drift_still"]))
    top = 1.35 * max(float(curve.max()), limit * float(at[-1]), still)
    ax.set_ylim(0, top)
    ax.legend(loc="upper left", ncols=2)
    return figure
