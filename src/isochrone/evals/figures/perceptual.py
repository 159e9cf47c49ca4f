"""Is z perceptual: its distance against what one sees the box move, pipes in colour; and the spectrum of z."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import has, legend, styled, theme


@register("figure", "perceptual")
@styled
def perceptual(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`perception.{pair_z, pair_displacement, pipe_z, pipe_displacement, spectrum}`."""
    if not has(arrays, "perception.pair_z", "perception.spectrum"):
        return None
    t = theme(name)
    seen, far = np.asarray(arrays["perception.pair_displacement"]), np.asarray(arrays["perception.pair_z"])
    figure = Figure(figsize=(10.6, 3.9))
    pairs, spectrum = figure.subplots(1, 2, width_ratios=[1.6, 1])
    pairs.plot(seen, far, ".", color=t.cycle[0], ms=3.2, alpha=0.3, mew=0, rasterized=True, label="two places")
    edges = np.quantile(seen, np.linspace(0, 1, 13))
    inside = [(seen >= a) & (seen <= b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    middle = [(np.median(seen[m]), np.median(far[m])) for m in inside if m.any()]
    pairs.plot(*zip(*middle, strict=True), color=t.ink, lw=1.6, label="median")
    if has(arrays, "perception.pipe_z"):
        pairs.plot(
            arrays["perception.pipe_displacement"], arrays["perception.pipe_z"], "D", color=t.cycle[2], ms=6.5,
            mec=t.paper, mew=1, label="two ends of a pipe",
        )  # fmt: skip
    pairs.set(xlabel="visible displacement, px", title="Distance in z", xlim=(0, None), ylim=(0, None))
    legend(pairs, loc="upper left", markerscale=1.4)
    share = np.asarray(arrays["perception.spectrum"])[:24]
    spectrum.bar(np.arange(1, len(share) + 1), 100 * share, color=t.cycle[0], width=0.75)
    spectrum.set(xlabel="principal direction of z", title="Variance of z over places, %")
    spectrum.set_xlim(0.3, max(len(share), 6) + 0.7)
    spectrum.grid(axis="x", visible=False)
    return figure
