"""Film strip of several futures, and how fast imagination and truth part in pixels and in reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isochrone.core.registry import register
from isochrone.evals.figures.style import bare, has, styled, theme

ROWS = {
    "truth": "truth",
    "kept": "kept by belief",
    "likely": "likeliest",
    "drawn": "a future",
    "drawn_too": "another",
}


@register("figure", "futures")
@styled
def futures(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`foresight.film_*`: frames (K, C, Y, X) in 0..1, one column per imagined step."""
    if not has(arrays, *(f"foresight.film_{row}" for row in ROWS)):
        return None
    steps, count = arrays["foresight.film_step"], len(arrays["foresight.film_truth"])
    figure = Figure(figsize=(10.6, 10.6 * 5.3 / (count + 0.3)))
    axes = figure.subplots(len(ROWS), count, squeeze=False, gridspec_kw={"wspace": 0.0, "hspace": 0.0})
    for row, (key, said) in enumerate(ROWS.items()):
        for column, frame in enumerate(np.asarray(arrays[f"foresight.film_{key}"])):
            ax = axes[row, column]
            picture = frame[0] if frame.shape[0] == 1 else frame.transpose(1, 2, 0)
            ax.imshow(picture.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            bare(ax)
            if row == 0:
                ax.set_title(f"step {steps[column]}", fontsize=9, fontweight="normal", loc="center", pad=4)
        axes[row, 0].set_ylabel(said, color=theme(name).ink, fontsize=9.5)
    return figure


@register("figure", "foresight")
@styled
def foresight(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`foresight.{horizon, pixel, pixel_low, pixel_high, pixel_still}` and, where rewards vary, `reward`."""
    if not has(arrays, "foresight.horizon", "foresight.pixel"):
        return None
    at, t, rewarded = np.asarray(arrays["foresight.horizon"]), theme(name), has(arrays, "foresight.reward")
    figure = Figure(figsize=(10.6, 3.5))
    axes = np.atleast_1d(figure.subplots(1, 2 if rewarded else 1))
    pixel = axes[0]
    pixel.fill_between(
        at, arrays["foresight.pixel_low"], arrays["foresight.pixel_high"], color=t.cycle[0], alpha=0.2, lw=0
    )
    pixel.plot(at, arrays["foresight.pixel"], color=t.cycle[0], label="drawn futures")
    pixel.plot(at, arrays["foresight.pixel_still"], color=t.cycle[1], ls="--", label="the last frame seen")
    pixel.axhline(1, color=t.quiet, lw=1, ls=":")
    pixel.annotate(
        "the mean frame", (at[-1], 1), (0, 3), textcoords="offset points", ha="right", fontsize=8.5, color=t.quiet
    )
    pixel.set_title("Error in pixels, in units of the frames' variance")
    pixel.set_ylim(0, 1.25 * pixel.get_ylim()[1])  # room for the legend above both curves
    pixel.legend(loc="upper left", ncols=2)
    if rewarded:
        axes[1].plot(at, arrays["foresight.reward"], color=t.cycle[2])
        axes[1].axhline(0, color=t.quiet, lw=1, ls=":")
        axes[1].set_title("Reward foreseen, R²")
        axes[1].set_ylim(-0.5, 1.03)
    for ax in axes:
        ax.set_xlabel("imagined steps")
        ax.set_xlim(at[0], max(at[-1], 2))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure
