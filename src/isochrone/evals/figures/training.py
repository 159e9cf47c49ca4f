"""Training curves from the numbers of a run: the total, and every loss on its own small axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import has, styled, theme

COLUMNS = 4


@register("figure", "training")
@styled
def training(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`training.NAME`: (N, 2) arrays of (step, value), e.g. from `store.curves`."""
    series = {k.removeprefix("training."): np.asarray(v) for k, v in arrays.items() if k.startswith("training.")}
    series = {k: v for k, v in series.items() if v.ndim == 2 and len(v) > 1 and has({k: v}, k)}
    if not series:
        return None
    t, rows = theme(name), math.ceil(len(series) / COLUMNS)
    # Plain margins: fitting them to the labels of fifty small axes takes seconds.
    height = 0.5 + 1.7 * rows
    figure = Figure(figsize=(10.6, height), layout="none")  # type: ignore[arg-type]  # its stubs forgot this word
    figure.subplots_adjust(0.05, 0.35 / height, 0.985, 1 - 0.35 / height, wspace=0.28, hspace=0.45)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax, (label, curve) in zip(axes, series.items(), strict=False):
        curve = curve[np.isfinite(curve[:, 1])]
        if not len(curve):
            continue
        wide = max(1, len(curve) // 40)
        smooth = np.convolve(
            np.pad(curve[:, 1], (wide // 2, wide - 1 - wide // 2), mode="edge"), np.ones(wide) / wide, "valid"
        )
        ax.plot(curve[:, 0], curve[:, 1], color=t.cycle[0], lw=0.8, alpha=0.35)
        ax.plot(curve[:, 0], smooth, color=t.cycle[0], lw=1.5)
        if (smooth > 0).all() and smooth.max() > 30 * smooth.min():
            ax.set_yscale("log")
            ax.minorticks_off()  # not shown, and each would be laid out
        ax.set_title(label, fontsize=9.5, fontweight="normal", pad=4)
        ax.tick_params(labelsize=8)
    for ax in axes[len(series) :]:
        ax.set_visible(False)
    return figure
