"""The house style: two themes, one palette that colour-blind readers can tell apart, no global state left behind."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

matplotlib.use("Agg", force=False)

Draw = Callable[[Mapping[str, Any], str], Figure | None]


@dataclass(frozen=True)
class Theme:
    """Colours of one theme. `cycle` follows Okabe and Ito (2008), lightened on dark ground."""

    paper: str
    ink: str
    quiet: str
    rule: str
    wall: str
    cycle: tuple[str, ...]  # model, floor, accent, good, second accent


THEMES = {
    "light": Theme(
        "#ffffff", "#22262b", "#6b727b", "#e3e5e8", "#30343b", ("#0068a8", "#8b929b", "#c9500f", "#00805d", "#a9558c")
    ),
    "dark": Theme(
        "#171b21", "#e4e7eb", "#98a1ac", "#2e353f", "#0b0d10", ("#5fb4ee", "#7d8691", "#f08a4b", "#35c79c", "#dd93bf")
    ),
}

# Lightness falls steadily from near to far, so the map reads in grey and with any colour vision.
ISOCHRONE = LinearSegmentedColormap.from_list(
    "isochrone", ["#fffbe0", "#e3f1bf", "#aedcb9", "#71c2ba", "#43a2bd", "#3580b5", "#345ea3", "#353f86"]
)
ERROR = LinearSegmentedColormap.from_list(
    "error", ["#7a4a0b", "#c98b3b", "#ecd3a7", "#f4f4f2", "#b5c9e6", "#5b86c0", "#1f3f7d"]
)


def theme(name: str) -> Theme:
    """The colours of 'light' or 'dark'."""
    return THEMES[name]


def settings(name: str) -> dict[Any, Any]:
    """matplotlib settings of a theme."""
    t = THEMES[name]
    return {
        "figure.facecolor": t.paper, "savefig.facecolor": t.paper, "axes.facecolor": t.paper,
        "text.color": t.ink, "axes.labelcolor": t.quiet, "axes.titlecolor": t.ink, "axes.edgecolor": t.rule,
        "xtick.color": t.quiet, "ytick.color": t.quiet, "grid.color": t.rule,
        "axes.prop_cycle": cycler(color=list(t.cycle)),
        "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.9,
        "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "font.family": "DejaVu Sans", "font.size": 10.5, "axes.titlesize": 11.5, "axes.labelsize": 10.5,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9,
        "legend.frameon": False, "legend.fontsize": 9.5, "legend.handlelength": 1.6,
        "lines.linewidth": 2.0, "lines.solid_capstyle": "round", "figure.constrained_layout.use": True,
    }  # fmt: skip


def styled(fn: Draw) -> Draw:
    """Draw inside the theme's settings and leave matplotlib's own settings as they were."""

    @functools.wraps(fn)
    def draw(arrays: Mapping[str, Any], theme: str = "light") -> Figure | None:
        with matplotlib.rc_context(settings(theme)):
            return fn(arrays, theme)

    return draw


def has(arrays: Mapping[str, Any], *names: str) -> bool:
    """Are all these arrays there, and not empty?"""
    return all(name in arrays and len(arrays[name]) > 0 for name in names)


def bare(ax: Axes) -> None:
    """No ticks, no frame: for pictures."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def legend(ax: Axes, **where: Any) -> None:
    """A legend whose handles are opaque, however faint the points are."""
    for handle in ax.legend(**where).legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as PNG bytes, without dates or versions inside, so that equal figures are equal files."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once: savefig draws a second time, for the layout's sake
    out = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(out, "png", dpi=(dpi, dpi))
    return out.getvalue()
