"""Open-loop curves: how fast imagination and truth part, and how often the true place is still recognised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isochrone.core.registry import register
from isochrone.evals.figures.style import has, styled, theme


@register("figure", "openloop")
@styled
def openloop(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`prediction.{horizon, error, error_low, error_high, error_still, hit_1, hit_5, position_error*}`."""
    if not has(arrays, "prediction.horizon", "prediction.error"):
        return None
    at, t = np.asarray(arrays["prediction.horizon"]), theme(name)
    model, floor = t.cycle[0], t.cycle[1]
    figure = Figure(figsize=(10.6, 3.5))
    error, hits, pixels = figure.subplots(1, 3)
    error.fill_between(
        at, arrays["prediction.error_low"], arrays["prediction.error_high"], color=model, alpha=0.2, lw=0
    )
    error.plot(at, arrays["prediction.error"], color=model, label="imagined")
    error.plot(at, arrays["prediction.error_still"], color=floor, ls="--", label="z stays as it was")
    error.axhline(1, color=t.quiet, lw=1, ls=":")
    error.annotate(
        "the mean of z", (at[-1], 1), (0, 3), textcoords="offset points", ha="right", fontsize=8.5, color=t.quiet
    )
    error.set_title("Error of z, in units of its spread")
    error.legend(loc="upper left", bbox_to_anchor=(0, 0.92))
    hits.plot(at, 100 * np.asarray(arrays["prediction.hit_1"]), color=model, label="nearest frame")
    hits.plot(at, 100 * np.asarray(arrays["prediction.hit_5"]), color=t.cycle[4], ls="-.", label="among the nearest 5")
    hits.set_title("True place found again, %")
    hits.set_ylim(-3, 103)
    hits.legend(loc="lower left")
    pixels.plot(at, arrays["prediction.position_error"], color=model, label="imagined")
    pixels.plot(at, arrays["prediction.position_error_still"], color=floor, ls="--", label="z stays as it was")
    pixels.set_title("Box off by, px")
    for ax in (error, hits, pixels):
        ax.set_xlabel("imagined steps")
        ax.set_xlim(at[0], max(at[-1], 2))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for ax in (error, pixels):
        ax.set_ylim(bottom=0)
    return figure
