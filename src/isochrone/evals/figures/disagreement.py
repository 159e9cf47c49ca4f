"""Histogram of the disagreement of z and p for ordinary steps and for steps by pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isochrone.core.registry import register
from isochrone.evals.figures.style import has, styled, theme


@register("figure", "disagreement")
@styled
def disagreement(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`disagreement.{score, piped}`; each group is scaled to 100 %, because pipes are rare."""
    if not has(arrays, "disagreement.score"):
        return None
    t, score, piped = theme(name), np.asarray(arrays["disagreement.score"]), np.asarray(arrays["disagreement.piped"])
    figure = Figure(figsize=(10.6, 2.9))
    ax = figure.subplots()
    edges = np.linspace(min(0, score.min()), max(score.max(), 1e-9) * 1.02, 61)
    for rows, colour, label in ((~piped, t.cycle[0], "ordinary steps"), (piped, t.cycle[2], "steps by pipe")):
        count = int(rows.sum())
        if count:
            weight = np.full(count, 100 / count)
            ax.hist(score[rows], edges, weights=weight, color=colour, alpha=0.85, label=f"{label} ({count})")
    ax.set(xlabel="disagreement (z far, p near)", title="Share of steps, %")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper center")
    return figure
