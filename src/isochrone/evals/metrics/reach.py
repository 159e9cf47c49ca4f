"""Is p reachability? d_p against the true fewest actions, over all ordered pairs whose goal can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from isochrone.core.protocols import GroundTruth, HasDistance
from isochrone.evals.context import Context
from isochrone.evals.figure import ERROR, HERO, ISOCHRONE, THEMES, bare, figure, has, legend
from isochrone.evals.ground_truth import RecordedTruth
from isochrone.evals.maps import Grid, cliffs, fine, grid_of, on_grid, walls
from isochrone.evals.metric import Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import numpy_generator, pairwise_distance, single_frame_states
from isochrone.evals.stats import pair_auroc, pair_mean, pair_share, pair_spearman, spearman

LOPSIDED = 4
"""Actions by which the two directions must differ for a pair to count in the asymmetry."""
SAMPLE = 4096
"""Maximum number of pairs."""
COLLAPSED = 1e-3
"""Range of d_p, in actions, up to which p has collapsed."""

REACHABILITY = Question(
    "reachability",
    "Is p reachability?",
    "d_p should equal the fewest actions from one place to another: the curve on the diagonal, the band narrow, "
    "pipe steps (diamonds) far in z and near in p, and the drift of the pose below its target.",
    order=80,
)


@family("reach", REACHABILITY, needs=[HasDistance], env=[GroundTruth], draw_order=10, place=0)
@metric(
    "reach.spearman",
    "rank correlation of d_p and true distance",
    "{:.3f}",
    baseline="ranking by visible displacement",
    target=">= 0.98",
    watch=True,
)
@metric("reach.mae", "mean absolute error of d_p, actions", baseline="the best constant", target="<= 0.7", watch=True)
@metric(
    "reach.asymmetry",
    "one-way passages whose longer direction is longer in d_p",
    "%",
    baseline="a coin",
    target=">= 0.95",
    watch=True,
)
@metric("reach.asymmetry_pairs", "pairs whose directions differ by 4 actions or more", "{:.0f}", detail=True)
@metric(
    "reach.unreachable",
    "pairs that cannot be reached against those that can, AUROC of d_p",
    "{:.3f}",
    baseline="ranking by visible displacement",
)
@metric("reach.unreachable_pairs", "pairs of places whose goal cannot be reached", "{:.0f}", detail=True)
@metric("reach.bias", "mean error of d_p, actions", detail=True)
@metric("reach.pairs", "pairs of places whose goal can be reached", "{:.0f}", detail=True)
@torch.no_grad()
def reach(context: Context) -> dict[str, Any]:
    """Rank correlation, mean absolute error in actions, asymmetry, calibration; and the arrays of the isochrone map.

    All are over pairs whose goal can be reached; `unreachable` says whether the others are known to be farther: 1 where
    every one of them is. Intervals are over places, because pairs that share a place are not independent.
    """
    model, truth, draw = context.model, context.truth, numpy_generator(context.rng)
    states = single_frame_states(model, truth.images, truth.spec.action)
    d_p, true, goals = pairwise_distance(model, states, states, "p"), truth.table, truth.goals
    exact = np.where(goals, true, 0.0)
    error = np.abs(d_p - exact)
    constant = float(np.abs(true[goals] - np.median(true[goals])).mean())
    visible = spearman(truth.displacement[goals], true[goals])
    rank = spearman(d_p[goals], true[goals]) if np.ptp(d_p[goals]) > COLLAPSED else float("nan")
    out: dict[str, Any] = {
        "spearman": Estimate(rank, pair_spearman(d_p, exact, goals), visible)
        if np.isfinite(rank)
        else Refused("d_p does not rank places: it is the same between all of them, or not finite"),
        "mae": Estimate(error[goals].mean(), pair_mean(error, goals), constant),
        "bias": float((d_p - exact)[goals].mean()),
        "pairs": float(goals.sum()),
    }
    out |= _asymmetry(d_p, true, goals) | _unreachable(d_p, truth)
    if "asymmetry" in out and np.isnan(rank):
        out["asymmetry"] = Refused(out["spearman"])
    out |= _calibration(d_p[goals], true[goals])
    selected = draw.permutation(np.flatnonzero(goals))[:SAMPLE]
    out |= {
        "pair_p": d_p.ravel()[selected],
        "pair_true": true.ravel()[selected],
        "pair_z": pairwise_distance(model, states, states, "z").ravel()[selected],
    }
    return out | _map(d_p, truth)


def _asymmetry(
    d_p: Float[np.ndarray, "C C"], true: Float[np.ndarray, "C C"], goals: Bool[np.ndarray, "C C"]
) -> dict[str, Any]:
    """Fraction of the pairs whose directions differ by >= 4 actions where d_p is larger in the longer direction; a tie
    is wrong."""
    with np.errstate(invalid="ignore"):
        gap = np.where(goals & goals.T, true - true.T, 0.0)
    lopsided = np.triu(np.abs(gap) >= LOPSIDED)
    if not lopsided.any():
        return {}
    right = np.sign(d_p - d_p.T) == np.sign(gap)
    return {
        "asymmetry": Estimate(right[lopsided].mean(), pair_share(right, lopsided), 0.5),
        "asymmetry_pairs": float(lopsided.sum()),
    }


def _unreachable(d_p: Float[np.ndarray, "C C"], truth: RecordedTruth) -> dict[str, Any]:
    """AUROC of d_p for pairs whose goal cannot be reached against those whose goal can; nothing where all can be."""
    apart = ~np.isfinite(truth.table)
    if not apart.any():
        return {}
    share, interval = pair_auroc(d_p, apart, truth.goals)
    visible = pair_auroc(truth.displacement, apart, truth.goals)[0]
    return {
        "unreachable": Estimate(share, interval, visible) if np.isfinite(share) else Refused("d_p is not finite"),
        "unreachable_pairs": float(apart.sum()),
    }


def _calibration(d_p: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Mean and central 80 % of d_p at each true distance."""
    steps = np.unique(true)
    spread = np.array([np.quantile(d_p[true == d], [0.1, 0.5, 0.9]) for d in steps])  # (D, 3)
    return {"calibration_true": steps, "calibration_p": spread}


def _map(d_p: np.ndarray, truth: RecordedTruth) -> dict[str, Any]:
    """What the isochrone map draws, from the place where displacement in the image misleads most about distance."""
    true, visible, goals = truth.table, truth.displacement, truth.goals
    exits = np.bincount(
        truth.transitions.place.cpu().numpy()[truth.transitions.ordinary.cpu().numpy()], minlength=len(true)
    )
    roomy = exits >= min(3, exits.max())  # not in a door or a dead end
    enough = [i for i in range(len(true)) if roomy[i] and goals[i].sum() >= 0.5 * goals.sum(1).max()]
    enough = enough or list(range(len(true)))
    misled = [spearman(visible[i][goals[i]], true[i][goals[i]]) for i in enough]
    source = enough[int(np.argmin(np.nan_to_num(misled, nan=1.0)))]
    pipes, images = truth.pipes, truth.images.cpu().numpy()
    background = np.median(images, axis=0)  # (3, Y, X): at each pixel the box is in few of the images
    offset = _offset(images, background, truth.places.position.cpu().numpy())
    return {
        "map_world": background.astype(np.uint8),
        "map_xy": truth.places.position.cpu().numpy() + offset,  # (C, 2) px, x then y
        "map_offset": offset,
        "map_source": np.array(source),
        "map_p": d_p[source],  # (C,) actions
        "map_true": true[source],
        "map_pipe_from": pipes.place.cpu().numpy(),
        "map_pipe_to": truth.env.index(pipes.next).cpu().numpy() if len(pipes.place) else np.zeros(0, int),
    } | _passages(truth, offset)


def _passages(truth: RecordedTruth, offset: np.ndarray) -> dict[str, Any]:
    """Pipe mouths (one step beyond the places they are entered from), and passages without a way back in one step."""
    moves, pipes = truth.transitions, truth.pipes
    step = (moves.next.position - moves.start.position).cpu().numpy()
    usual = np.zeros((len(truth.actions), 2))
    kind, ordinary = moves.kind.cpu().numpy(), moves.ordinary.cpu().numpy()
    for k in range(len(usual)):
        rows = (kind == k) & ordinary
        usual[k] = np.median(step[rows], axis=0) if rows.any() else 0
    start, end = moves.place.cpu().numpy()[ordinary], truth.env.index(moves.next).cpu().numpy()[ordinary]
    piped = set(truth.env.index(pipes.next).tolist()) if len(pipes.place) else set()
    back = truth.table[end, start] > 1
    one_way = [(a, b) for a, b, w in zip(start, end, back, strict=True) if w and b >= 0 and int(a) not in piped]
    if len(one_way) > 0.1 * len(start):  # momentum: hardly any step can be reversed by one step
        one_way = []
    return {
        "map_pipe_mouth": truth.places.position[pipes.place].cpu().numpy() + usual[pipes.kind.cpu().numpy()] + offset,
        "map_one_way": np.array(sorted(set(one_way)), int).reshape(-1, 2),
    }


def _offset(images: np.ndarray, background: np.ndarray, position: np.ndarray) -> np.ndarray:
    """From the position of a box to the centre of its visible part, px (x, y)."""
    box = np.abs(images - background).sum(1)  # (C, Y, X)
    mass = box.sum((1, 2))
    visible = mass > 0  # an occluder may hide it
    y, x = np.indices(box.shape[1:])
    centre = np.stack([(box * x).sum((1, 2)), (box * y).sum((1, 2))], -1)[visible] / mass[visible, None]
    return np.median(centre - position[visible], axis=0) if visible.any() else np.zeros(2)


# --- figures --------------------------------------------------------------------------------------------------------

LINES = 11
"""About how many isochrones to draw."""
PIPE = "#e4572e"


@figure(
    "isochrone",
    caption="Lines join the places that can be reached from the marked start in the same number of actions. Left, as "
    "the model predicts; right, the truth. Dashed: pipes. Where the model is right, the two maps agree.",
    order=HERO,
)
def isochrone(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Predicted distance (large), true distance (large) and error (small), from `reach.map_*`."""
    if not has(arrays, "reach.map_xy", "reach.map_p", "reach.map_true"):
        return None
    grid = grid_of(np.asarray(arrays["reach.map_xy"]))
    d_p, true = np.asarray(arrays["reach.map_p"], float), np.asarray(arrays["reach.map_true"], float)
    d_p = np.where(np.isfinite(true), d_p, np.nan)
    farthest = np.nanmax(np.where(np.isfinite(true), true, np.nan))
    step = line_step(farthest)
    top = max(farthest, min(np.nanmax(d_p), 1.5 * farthest))  # a wrong prediction must not flatten the scale
    levels = np.arange(step, top + step, step) + 0.5  # between the cells that need k and k + 1 actions
    wide = grid.shape[1] / grid.shape[0]
    drawing = Figure(figsize=(10.6, min(6.6, 1.25 + 4.1 / wide)))
    layout = drawing.add_gridspec(2, 3, width_ratios=[1, 1, 0.56], height_ratios=[1, 0.045])
    left, middle = drawing.add_subplot(layout[0, 0]), drawing.add_subplot(layout[0, 1])
    right = drawing.add_subplot(layout[0, 2])
    norm = BoundaryNorm(np.r_[-0.5, levels], ISOCHRONE.N, extend="max")
    image = None
    for ax, value, title in ((left, d_p, "Predicted distance"), (middle, true, "True distance")):
        image = panel(ax, grid, value, levels, norm, theme)
        marks(ax, grid, arrays, theme)
        ax.set_title(title)
    _error(drawing, right, layout[1, 2], grid, d_p - np.where(np.isfinite(true), true, np.nan), theme)
    scale = drawing.colorbar(image, cax=drawing.add_subplot(layout[1, :2]), orientation="horizontal", ticks=levels)
    scale.ax.set_xticklabels([f"{v - 0.5:.0f}" for v in levels])
    scale.set_label("fewest actions from the marked start")
    scale.outline.set_visible(False)  # type: ignore[operator]
    scale.ax.grid(False)
    return drawing


def line_step(top: float) -> int:
    """Actions between two isochrones: a round number that gives about `LINES` of them."""
    spacing = max(1.0, top / LINES)
    return int(next(s for s in (1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 10**6) if s >= spacing * 0.8))


def panel(ax: Axes, grid: Grid, value: np.ndarray, levels: np.ndarray, norm: Any, theme: str) -> Any:
    """One field in bands, its isochrones labelled, and the walls over it."""
    raster = fine(on_grid(grid, np.where(np.isfinite(value), value, np.nan)))
    left, right, bottom, top = grid.extent
    image = ax.imshow(
        np.ma.masked_invalid(raster), cmap=ISOCHRONE, norm=norm, extent=grid.extent, interpolation="nearest"
    )
    size_y, size_x = raster.shape
    x = left + (np.arange(size_x) + 0.5) * (right - left) / size_x
    y = top + (np.arange(size_y) + 0.5) * (bottom - top) / size_y
    inner = levels[(levels > np.nanmin(raster)) & (levels < np.nanmax(raster))]
    if len(inner):
        smooth = np.ma.masked_where(np.isnan(raster) | cliffs(raster), raster)
        lines = ax.contour(x, y, smooth, levels=inner, colors="#12283c", linewidths=0.9, alpha=0.75)
        for label in ax.clabel(lines, fmt=lambda v: f"{v - 0.5:.0f}", fontsize=7.5, inline=True, inline_spacing=2):
            label.set_path_effects([effects.withStroke(linewidth=2.2, foreground="#ffffff")])
            label.set_color("#12283c")
    walls(ax, grid, theme)
    bare(ax)
    ax.set_anchor("N")
    return image


def marks(ax: Axes, grid: Grid, arrays: Mapping[str, Any], theme: str) -> None:
    """The start, the pipes (entrance ring, dashed way, arrow at the exit) and the one-way passages (small arrows)."""
    xy = np.asarray(arrays["reach.map_xy"])
    for mouth, out, both in pipes_of(arrays):
        ax.add_patch(
            FancyArrowPatch(
                tuple(mouth), tuple(out), arrowstyle="-" if both else "-|>", mutation_scale=11,
                connectionstyle="arc3,rad=0.14", color=PIPE, linewidth=1.2, linestyle=(0, (4, 3)), shrinkA=4, shrinkB=4,
                zorder=5, alpha=0.9,
            )
        )  # fmt: skip
        for end in (mouth, out) if both else (mouth,):
            ax.plot(*end, "o", ms=6, mfc="#ffffff", mec=PIPE, mew=1.6, zorder=6)
    for a, b in passages(np.asarray(arrays.get("reach.map_one_way", np.zeros((0, 2), int)))):
        way = xy[b] - xy[a]
        ax.annotate(
            "", xy=tuple(xy[a] + 0.95 * way), xytext=tuple(xy[a] + 0.05 * way), zorder=6,
            arrowprops={"arrowstyle": "-|>", "color": PIPE, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    start = xy[int(arrays["reach.map_source"])]
    ax.plot(*start, "o", ms=11, mfc="#ffffff", mec="#12283c", mew=1.8, zorder=7)
    ax.plot(*start, "o", ms=4.5, mfc="#12283c", mec="none", zorder=8)


def passages(steps: np.ndarray) -> list[tuple[int, int]]:
    """Join one-way steps that follow each other (into a door, out of a door) to one passage."""
    onward = {int(a): int(b) for a, b in steps}
    joined = []
    for a in sorted(onward.keys() - set(onward.values())):
        b = onward[a]
        while b in onward:
            b = onward[b]
        joined.append((a, b))
    return joined


def pipes_of(arrays: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """(mouth, exit, both ways?) in px. A pipe whose exit is another one's mouth comes once, as a two-way pipe."""
    xy = np.asarray(arrays["reach.map_xy"])
    mouth = np.asarray(arrays.get("reach.map_pipe_mouth", np.zeros((0, 2))))
    end = np.asarray(arrays.get("reach.map_pipe_to", [])).astype(int)
    pipes: list[tuple[np.ndarray, np.ndarray, bool]] = []
    for k in np.unique(end[end >= 0]):
        begin, out = np.median(mouth[end == k], axis=0), xy[k]
        twin = [i for i, (a, b, _) in enumerate(pipes) if np.allclose(a, out, atol=1) and np.allclose(b, begin, atol=1)]
        if twin:
            pipes[twin[0]] = (*pipes[twin[0]][:2], True)
        else:
            pipes.append((begin, out, False))
    return pipes


def _error(drawing: Figure, ax: Axes, place: Any, grid: Grid, error: np.ndarray, theme: str) -> None:
    bound = max(1.0, float(np.nanmax(np.abs(error))))
    image = ax.imshow(
        on_grid(grid, error), cmap=ERROR, vmin=-bound, vmax=bound, extent=grid.extent, interpolation="nearest"
    )
    walls(ax, grid, theme)
    bare(ax)
    ax.set_anchor("N")
    ax.set_title(f"Error, mean {np.nanmean(np.abs(error)):.2f} actions", fontsize=10)
    scale = drawing.colorbar(image, cax=drawing.add_subplot(place), orientation="horizontal", ticks=[-bound, 0, bound])
    scale.ax.set_xticklabels([f"-{bound:.1f}", "0", f"+{bound:.1f}"])
    scale.set_label("predicted minus true")
    scale.outline.set_visible(False)  # type: ignore[operator]
    scale.ax.grid(False)


@figure("calibration", REACHABILITY, order=80)
def calibration(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """d_p at every true distance, and the z-p plane, on which pipes stand out."""
    if not has(arrays, "reach.calibration_true", "reach.pair_p"):
        return None
    t = THEMES[theme]
    true, spread = np.asarray(arrays["reach.calibration_true"]), np.asarray(arrays["reach.calibration_p"])
    drawing = Figure(figsize=(10.6, 4.1))
    left, right = drawing.subplots(1, 2, width_ratios=[1, 1.5])
    top = max(float(true.max()), float(spread.max())) * 1.04
    left.plot([0, top], [0, top], color=t.quiet, lw=1, ls="--", label="exact")
    left.fill_between(
        true, spread[:, 0], spread[:, 2], color=t.cycle[0], alpha=0.22, lw=0, label="central 80 % of pairs"
    )
    left.plot(true, spread[:, 1], color=t.cycle[0], label="median")
    left.set(xlim=(0, top), ylim=(0, top), xlabel="true fewest actions", title="d_p, actions")
    left.legend(loc="upper left")
    left.set_aspect("equal", adjustable="box")
    p, z = np.asarray(arrays["reach.pair_p"]), np.asarray(arrays["reach.pair_z"])
    right.plot(p, z, ".", color=t.cycle[1], ms=3, alpha=0.35, mew=0, rasterized=True, label="two places")
    if has(arrays, "disagreement.step_z"):
        piped = np.asarray(arrays["disagreement.piped"])
        step_z, step_p = np.asarray(arrays["disagreement.step_z"]), np.asarray(arrays["disagreement.step_p"])
        right.plot(
            step_p[~piped], step_z[~piped], "o", color=t.cycle[0], ms=3.5, mew=0, alpha=0.5, label="one ordinary step"
        )
        right.plot(
            step_p[piped], step_z[piped], "D", color=t.cycle[2], ms=6.5, mec=t.paper, mew=1, label="one step by pipe"
        )
    right.set(xlabel="d_p, actions", title="Distance in z", xlim=(0, None), ylim=(0, None))
    legend(right, loc="lower right", markerscale=1.3)
    return drawing


@figure(
    "coverage", caption="The places of the recording: a place that was never recorded cannot be learned.", order=200
)
def coverage(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Recorded frames per place, from `recording.position` (B, T, 2) px."""
    if not has(arrays, "recording.position", "reach.map_xy"):
        return None
    xy, offset = np.asarray(arrays["reach.map_xy"]), np.asarray(arrays.get("reach.map_offset", np.zeros(2)))
    grid = grid_of(xy)
    positions = np.asarray(arrays["recording.position"]).reshape(-1, 2) + offset
    at = np.rint((positions - np.asarray(grid.origin)) / grid.pitch).astype(int)
    at = np.clip(at, 0, np.array(grid.shape)[::-1] - 1)
    count = np.zeros(grid.shape)
    np.add.at(count, (at[:, 1], at[:, 0]), 1)
    visits = count[grid.row, grid.column]
    drawing = Figure(figsize=(10.6, 4.0))
    ax, curve = drawing.subplots(1, 2)
    image = ax.imshow(on_grid(grid, visits), cmap=ISOCHRONE, vmin=0, extent=grid.extent, interpolation="nearest")
    walls(ax, grid, theme)
    bare(ax)
    ax.set_title(f"Frames per place ({100 * (visits > 0).mean():.0f} % visited)")
    scale = drawing.colorbar(image, ax=ax, shrink=0.75)
    scale.outline.set_visible(False)  # type: ignore[operator]
    scale.ax.grid(False)
    share = np.sort(visits)[::-1].cumsum() / max(visits.sum(), 1)
    curve.plot(100 * np.arange(1, len(share) + 1) / len(share), 100 * share)
    curve.plot([0, 100], [0, 100], color=curve.xaxis.label.get_color(), lw=1, ls="--")
    curve.set(xlabel="most visited places, %", title="Share of all frames, %", xlim=(0, 100), ylim=(0, 102))
    return drawing
