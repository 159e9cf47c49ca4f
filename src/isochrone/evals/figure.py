"""Figures: how one is declared, two themes, and a palette that colour-blind readers can distinguish."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing
from PIL import Image

from isochrone.core import registry
from isochrone.evals.metric import Question

HERO = -1
"""The order of the figure at the head of the report."""

Draw = Callable[[Mapping[str, Any], str], Drawing | None]


@dataclass(frozen=True)
class Theme:
    """Colours of one theme. `cycle` follows Okabe and Ito (2008), lightened on dark ground."""

    paper: str
    ink: str
    quiet: str
    rule: str
    wall: str
    cycle: tuple[str, ...]  # model, baseline, accent, good, second accent


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


def settings(theme: str) -> dict[Any, Any]:
    """matplotlib settings of 'light' or 'dark'."""
    t = THEMES[theme]
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


def styled(draw: Draw) -> Draw:
    """Draw with the settings of the theme; matplotlib's own settings stay as they were."""

    @functools.wraps(draw)
    def with_theme(arrays: Mapping[str, Any], theme: str = "light") -> Drawing | None:
        with matplotlib.rc_context(settings(theme)):
            return draw(arrays, theme)

    return with_theme


class ReportFigure:
    """A drawing for the report: (arrays, theme) -> matplotlib Figure, or None where its arrays do not exist."""

    def __init__(self, name: str, question: Question | None, caption: str, order: int, draw: Draw) -> None:
        self.name, self.question, self.caption, self.order, self.draw = name, question, caption, order, draw
        functools.update_wrapper(self, draw)

    def __call__(self, arrays: Mapping[str, Any], theme: str = "light") -> Drawing | None:
        return styled(self.draw)(arrays, theme)


def figure(
    name: str, question: Question | None = None, *, caption: str = "", order: int = 0
) -> Callable[[Draw], ReportFigure]:
    """Register a figure beside the metrics whose arrays it draws.

    In the report it stands under its question, by `order`; without a question at the end, with its caption.
    """
    return lambda draw: registry.register("figure", name)(ReportFigure(name, question, caption, order, draw))


def figures() -> list[ReportFigure]:
    """Every registered figure, in the order of the report."""
    return sorted(registry.components("figure", ReportFigure).values(), key=lambda f: (f.order, f.name))


def has(arrays: Mapping[str, Any], *names: str) -> bool:
    """Do all these arrays exist, with something in them?"""
    return all(name in arrays and len(arrays[name]) > 0 for name in names)


def bare(ax: Axes) -> None:
    """No ticks, no frame: for images."""
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


def film_strip(
    strips: Mapping[str, np.ndarray],
    steps: Sequence[int] | np.ndarray,
    theme: str,
    scales: Mapping[str, Any] | None = None,
) -> Drawing:
    """One strip of frames (K, C, Y, X) below another, labelled, one column per step.

    `scales`: imshow settings of a strip that is no image in 0..1, by label.
    """
    count = len(steps)
    figure = Drawing(figsize=(10.6, 10.6 * (len(strips) + 0.3) / (count + 0.3)))
    axes = figure.subplots(len(strips), count, squeeze=False, gridspec_kw={"wspace": 0.0, "hspace": 0.0})
    for row, (label, frames) in enumerate(strips.items()):
        scale = (scales or {}).get(label, {"cmap": "gray", "vmin": 0, "vmax": 1})
        for column, frame in enumerate(frames):
            ax = axes[row, column]
            ax.imshow(displayed(frame), interpolation="nearest", **scale)
            bare(ax)
            if row == 0:
                ax.set_title(f"step {steps[column]}", fontsize=9, fontweight="normal", loc="center", pad=4)
        axes[row, 0].set_ylabel(label, color=THEMES[theme].ink, fontsize=9.5)
    return figure


def displayed(frame: np.ndarray) -> np.ndarray:
    """(C, Y, X) as colours (Y, X, 3) or grey (Y, X): of a stack of frames the newest, which is the last."""
    return frame[-3:].transpose(1, 2, 0) if len(frame) % 3 == 0 else frame[-1]


def png(figure: Drawing, dpi: int = 150) -> bytes:
    """The figure as PNG bytes, without dates or versions inside, so that equal figures are equal files."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once: savefig draws a second time, for the layout's sake
    out = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(out, "png", dpi=(dpi, dpi))
    return out.getvalue()
