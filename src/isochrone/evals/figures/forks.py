"""Two futures: what could come, and what a model draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import bare, has, styled, theme

COLUMNS = 8


@register("figure", "forks")
@styled
def forks(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`forks.film_left`, `film_right` (H, C, Y, X) and the drawn `film_0` ..: one column per imagined step."""
    if not has(arrays, "forks.film_left", "forks.film_right", "forks.film_0"):
        return None
    drawn = sorted(k for k in arrays if k.startswith("forks.film_") and k[-1].isdigit())
    rows = {"forks.film_left": "left", "forks.film_right": "right"} | {k: f"drawn {i + 1}" for i, k in enumerate(drawn)}
    steps = np.unique(np.linspace(1, len(arrays["forks.film_left"]), COLUMNS).round().astype(int))
    figure = Figure(figsize=(10.6, 10.6 * (len(rows) + 0.3) / (len(steps) + 0.3)))
    axes = figure.subplots(len(rows), len(steps), squeeze=False, gridspec_kw={"wspace": 0.0, "hspace": 0.0})
    for row, (key, said) in enumerate(rows.items()):
        for column, step in enumerate(steps):
            ax, frame = axes[row, column], np.asarray(arrays[key])[step - 1]
            ax.imshow(frame.transpose(1, 2, 0).clip(0, 1), interpolation="nearest")
            bare(ax)
            if row == 0:
                ax.set_title(f"step {step}", fontsize=9, fontweight="normal", loc="center", pad=4)
        axes[row, 0].set_ylabel(said, color=theme(name).ink, fontsize=9.5)
    return figure
