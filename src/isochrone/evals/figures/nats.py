"""Where the information goes: KL per dimension of z, how sure prior and posterior are, and KL along the episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isochrone.core.registry import register
from isochrone.evals.figures.style import has, styled, theme


@register("figure", "nats")
@styled
def nats(arrays: Mapping[str, Any], name: str = "light") -> Figure | None:
    """`nats.{per_dimension, entropy_posterior, entropy_prior, by_row}`."""
    if not has(arrays, "nats.per_dimension", "nats.by_row"):
        return None
    t = theme(name)
    figure = Figure(figsize=(10.6, 3.4))
    bars, sure, rows = figure.subplots(1, 3)
    each = np.asarray(arrays["nats.per_dimension"])
    bars.bar(np.arange(1, len(each) + 1), each, color=t.cycle[0], width=0.8)
    bars.set_title("KL per dimension of z, nats")
    bars.set_xlabel("dimension, by size")
    for key, label, colour in (("posterior", "posterior", t.cycle[0]), ("prior", "prior", t.cycle[2])):
        values = np.asarray(arrays[f"nats.entropy_{key}"])
        sure.plot(np.arange(1, len(values) + 1), values, color=colour, label=label)
    sure.set_title("Entropy per dimension, nats")
    sure.set_xlabel("dimension, by size")
    sure.legend()
    by_row = np.asarray(arrays["nats.by_row"])
    rows.plot(np.arange(1, len(by_row) + 1), by_row, color=t.cycle[0])
    rows.set_title("KL per frame along the window")
    rows.set_xlabel("row")
    rows.set_ylim(bottom=0)
    for ax in (bars, sure, rows):
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure
