"""Film strip: what was there, what z keeps of it, what was imagined blindly, and where that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import bare, has, styled, theme

ROWS = ("truth", "reconstruction", "prediction", "error")
SAID = ("truth", "kept by z", "imagined", "error")


@register("figure", "film")
@styled
def film(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`prediction.film_*`: frames (K, C, Y, X) in 0..1, one column per imagined step."""
    if not has(arrays, "prediction.film_truth", "prediction.film_prediction", "prediction.film_reconstruction"):
        return None
    real, kept, dreamt = (np.asarray(arrays[f"prediction.film_{k}"]) for k in ROWS[:3])
    off = (dreamt - real).mean(1, keepdims=True)  # grey: mean over channels
    steps, count = arrays["prediction.film_step"], len(real)
    figure = Figure(figsize=(10.6, 10.6 * 4.28 / (count + 0.3)))
    axes = figure.subplots(4, count, squeeze=False, gridspec_kw={"wspace": 0.0, "hspace": 0.0})
    for row, frames in enumerate((real, kept, dreamt, off)):
        for column in range(count):
            ax, frame = axes[row, column], frames[column]
            if row == 3:
                ax.imshow(frame[0], cmap="PuOr", vmin=-1, vmax=1, interpolation="nearest")
            else:
                grey = frame.shape[0] == 1
                picture = frame[0] if grey else frame.transpose(1, 2, 0)
                # Walls are faint against the box; a square root brings them out equally in every row.
                ax.imshow(np.sqrt(picture.clip(0, 1)), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            bare(ax)
            if row == 0:
                ax.set_title(f"step {steps[column]}", fontsize=9, fontweight="normal", loc="center", pad=4)
        axes[row, 0].set_ylabel(SAID[row], color=theme(name).ink, fontsize=9.5)
    return figure
