"""Is p reachability: d_p at every true distance, and the z-p plane on which pipes stand out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import has, legend, styled, theme


@register("figure", "calibration")
@styled
def calibration(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`reach.{calibration_true, calibration_p, pair_p, pair_true, pair_z}`, `disagreement.{step_z, step_p, piped}`."""
    if not has(arrays, "reach.calibration_true", "reach.pair_p"):
        return None
    t = theme(name)
    true, spread = np.asarray(arrays["reach.calibration_true"]), np.asarray(arrays["reach.calibration_p"])
    figure = Figure(figsize=(10.6, 4.1))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    top = max(float(true.max()), float(spread.max())) * 1.04
    left.plot([0, top], [0, top], color=t.quiet, lw=1, ls="--", label="exact")
    left.fill_between(
        true, spread[:, 0], spread[:, 2], color=t.cycle[0], alpha=0.22, lw=0, label="central 80 % of pairs"
    )
    left.plot(true, spread[:, 1], color=t.cycle[0], label="median")
    left.set(xlim=(0, top), ylim=(0, top), xlabel="true fewest actions", title="d_p, actions")
    left.legend(loc="upper left")
    left.set_aspect("equal", adjustable="box")
    p, z = np.asarray(arrays["reach.pair_p"]), np.asarray(arrays["reach.pair_z"])
    right.plot(p, z, ".", color=t.cycle[1], ms=3, alpha=0.35, mew=0, rasterized=True, label="two places")
    if has(arrays, "disagreement.step_z"):
        piped = np.asarray(arrays["disagreement.piped"])
        step_z, step_p = np.asarray(arrays["disagreement.step_z"]), np.asarray(arrays["disagreement.step_p"])
        right.plot(
            step_p[~piped], step_z[~piped], "o", color=t.cycle[0], ms=3.5, mew=0, alpha=0.5, label="one ordinary step"
        )
        right.plot(
            step_p[piped], step_z[piped], "D", color=t.cycle[2], ms=6.5, mec=t.paper, mew=1, label="one step by pipe"
        )
    right.set(xlabel="d_p, actions", title="Distance in z", xlim=(0, None), ylim=(0, None))
    legend(right, loc="lower right", markerscale=1.3)
    return figure
