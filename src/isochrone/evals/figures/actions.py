"""What each action does to p and z: length of its effect, and whether actions point apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import ERROR, has, styled, theme


@register("figure", "actions")
@styled
def actions(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`actions.{label, z_length, z_cosine, p_length, p_cosine}`."""
    spaces = [s for s in ("z", "p") if has(arrays, f"actions.{s}_length", "actions.label")]
    if not spaces:
        return None
    t, label = theme(name), [str(x) for x in arrays["actions.label"]]
    figure = Figure(figsize=(10.6, 3.2))
    axes = figure.subplots(1, 2 * len(spaces), squeeze=False)[0]
    for k, space in enumerate(spaces):
        length, cosine = np.asarray(arrays[f"actions.{space}_length"]), np.asarray(arrays[f"actions.{space}_cosine"])
        bars, matrix = axes[2 * k], axes[2 * k + 1]
        bars.bar(label, length[:, 0], yerr=length[:, 1], color=t.cycle[0], ecolor=t.ink, width=0.65)
        bars.set_title(f"Length of Δ{space}")
        bars.grid(axis="x", visible=False)
        matrix.imshow(cosine, cmap=ERROR, vmin=-1, vmax=1)
        for (i, j), value in np.ndenumerate(cosine):
            dark = abs(value) > 0.6
            matrix.text(
                j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color="#ffffff" if dark else "#22262b"
            )
        matrix.set_xticks(range(len(label)), label)
        matrix.set_yticks(range(len(label)), label)
        matrix.grid(False)
        matrix.set_title(f"Cosine of mean Δ{space}")
        for ax in (bars, matrix):
            ax.tick_params(axis="x", labelrotation=40 if max(map(len, label)) > 3 else 0, labelsize=9)
    return figure
