"""How did the training go? Losses on data never trained on, and the training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.evals.context import Context
from isochrone.evals.figure import THEMES, figure, has
from isochrone.evals.metric import Question, family, metric

COLUMNS = 4
"""Panels side by side."""

HOLDOUT = Question(
    "holdout",
    "How large are the losses on held-out data?",
    "Every loss and their weighted sum, averaged over a few batches of episodes that the training never uses.",
    order=100,
)


def _has_holdout(context: Context) -> bool:
    """There is data that the model was not trained on."""
    return context.holdout_losses is not None


@family("holdout", HOLDOUT, needs=[_has_holdout])
@metric("holdout.loss", "weighted sum of the losses on held-out data", "{:.4g}")
@metric("holdout.{loss}", "{loss}", "{:.4g}")
def holdout(context: Context) -> dict[str, Any]:
    """The mean of every loss on held-out data."""
    return dict(context.holdout_losses()) if context.holdout_losses is not None else {}


@figure("training", caption="Every loss of the training run; faint: as logged, strong: smoothed.", order=202)
def training(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """`training.NAME`: (N, 2) arrays of (step, value), e.g. from `store.curves`; one small axis for each."""
    series = {k.removeprefix("training."): np.asarray(v) for k, v in arrays.items() if k.startswith("training.")}
    series = {k: v for k, v in series.items() if v.ndim == 2 and len(v) > 1 and has({k: v}, k)}
    if not series:
        return None
    t, rows = THEMES[theme], math.ceil(len(series) / COLUMNS)
    # Plain margins: fitting them to the labels of fifty small axes takes seconds.
    height = 0.5 + 1.7 * rows
    drawing = Figure(figsize=(10.6, height), layout="none")  # type: ignore[arg-type]  # missing from its stubs
    drawing.subplots_adjust(0.05, 0.35 / height, 0.985, 1 - 0.35 / height, wspace=0.28, hspace=0.45)
    axes = drawing.subplots(rows, COLUMNS, squeeze=False).ravel()
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
    return drawing
