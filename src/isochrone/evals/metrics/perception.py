"""Is z perceptual? Near in z must mean near in the image, however many actions apart; pipes included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from isochrone.core.errors import UserError
from isochrone.core.protocols import Encodes, GroundTruth
from isochrone.core.types import Batch
from isochrone.evals.context import Context
from isochrone.evals.figure import THEMES, figure, has, legend
from isochrone.evals.ground_truth import RecordedTruth
from isochrone.evals.metric import Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import encode, numpy, numpy_generator
from isochrone.evals.probes import cross_validated
from isochrone.evals.stats import bootstrap_mean, euclidean_distances, pair_spearman, spearman

PAIRS = 4096
"""Maximum number of pairs of places."""
ROWS = 1500
"""Maximum number of frames in the position probe."""
FOLDS = 5
"""Cross-validation folds of the position probe."""
COLLAPSED = 1e-6
"""Largest distance in z, in units of its largest value (at least 1), up to which z has collapsed: rounding."""
RANKS = 0.5
"""Rank correlation from which z ranks places by displacement at all."""

PERCEPTUAL = Question(
    "perceptual",
    "Is z perceptual?",
    "Every dot is a pair of places: what looks twice as far apart should be farther apart in z, and the two ends of a "
    "pipe (diamonds) must be in the same band as all other pairs, however near they are in actions.",
    order=70,
)


@family("perception", PERCEPTUAL, needs=[Encodes], env=[GroundTruth], draw_order=8)
@metric(
    "perception.spearman",
    "rank correlation of z distance and visible displacement",
    "{:.3f}",
    baseline="no relation",
    target=">= 0.95",
    watch=True,
)
@metric("perception.spearman_frames", "… over recorded frames, noise included", "{:.3f}")
@metric(
    "perception.pipe_ends_gap",
    "ends of a pipe: rank in z against rank by displacement, worst",
    "%",
    target="<= 0.05",
)
@metric("perception.pipe_ends_gap_mean", "… mean over pipes", "%", detail=True)
@metric(
    "perception.position_error",
    "position read from z by a linear probe, error in px",
    baseline="the mean position",
    target="< 1",
    watch=True,
)
@metric("perception.effective_rank", "effective rank of z", "{:.1f}")
@metric("perception.shift_noise", "shift of z under pixel noise, in nearest-place distances")
@metric("perception.shift_light", "shift of z under 10 % less light, in nearest-place distances")
@torch.no_grad()
def perception(context: Context) -> dict[str, Any]:
    """Rank correlation of z distance and visible displacement, pipe ends, position probe, spectrum, nuisances."""
    model, batch, truth, rng = context.model, context.rows, context.truth, context.rng
    z = numpy(encode(model, truth.images))  # (C, Z), one row per place
    in_z, visible = euclidean_distances(z), truth.displacement  # (C, C) both
    upper = np.triu(np.ones(in_z.shape, bool), 1)
    if not in_z.max() > COLLAPSED * max(1.0, float(np.abs(z).max())):
        collapsed = Refused("z is the same at every place: it has collapsed")
        names = [m.key.partition(".")[2] for m in perception.metrics if not m.detail]
        return {n: collapsed for n in names if "pipe" not in n or len(truth.pipes.place)}
    rank = spearman(in_z[upper], visible[upper])
    out: dict[str, Any] = {"spearman": Estimate(rank, pair_spearman(in_z, visible, upper), 0.0)}
    selected = numpy_generator(rng).permutation(int(upper.sum()))[:PAIRS]
    out |= {"pair_z": in_z[upper][selected], "pair_displacement": visible[upper][selected]}
    out |= _frames(model, batch, truth, rng)
    out |= _pipe_ends(in_z, visible, upper, z, model, truth)
    if "pipe_ends_gap" in out and not rank >= RANKS:
        out["pipe_ends_gap"] = Refused(
            f"z does not rank places by displacement (rank correlation {rank:.2f}): a pipe's rank in z says nothing"
        )
    out |= _spectrum(z)
    out |= _nuisances(model, truth, z, in_z, rng)
    return out | _position(model, batch, truth, rng)


def _frames(model: Any, batch: Batch, truth: RecordedTruth, rng: torch.Generator) -> dict[str, Any]:
    """The same correlation over random pairs of recorded frames, with the noise that the environment adds."""
    draw, (count, length) = numpy_generator(rng), batch.shape
    selected = draw.choice(count * length, min(400, count * length), replace=False)
    frames = batch.obs["image"].flatten(0, 1)[selected]
    states = truth.state.map(lambda x: x.flatten(0, 1))[torch.from_numpy(selected)]
    in_z = euclidean_distances(numpy(encode(model, frames)))
    visible = truth.displacements(states, states)
    upper = np.triu(np.ones(in_z.shape, bool), 1)
    return {"spearman_frames": spearman(in_z[upper], visible[upper])}


def _pipe_ends(
    in_z: Float[np.ndarray, "C C"],
    visible: Float[np.ndarray, "C C"],
    upper: Bool[np.ndarray, "C C"],
    z: Float[np.ndarray, "C Z"],
    model: Any,
    truth: RecordedTruth,
) -> dict[str, Any]:
    """Rank of each pipe's two ends among all pairs: by z, minus by displacement (0: as far apart as they look)."""
    pipes = truth.pipes
    if not len(pipes.place):
        return {}
    exits = numpy(encode(model, truth.env.draw(pipes.next)))  # (P, Z)
    pipe_z = np.linalg.norm(exits - z[pipes.place.numpy()], axis=-1)
    pipe_visible = np.asarray(truth.env.displacement(pipes.start, pipes.next).cpu(), float)
    gap = _percentile(pipe_z, in_z[upper]) - _percentile(pipe_visible, visible[upper])
    return {
        "pipe_ends_gap": float(np.abs(gap).max()),
        "pipe_ends_gap_mean": float(np.abs(gap).mean()),
        "pipe_z": pipe_z,
        "pipe_displacement": pipe_visible,
    }


def _percentile(x: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Fraction of `among` below x, ties counting half."""
    ordered = np.sort(among)
    slack = 1e-9 * max(1.0, float(np.abs(ordered).max()))  # equal distances computed twice may differ in the last bit
    below = np.searchsorted(ordered, x - slack, "left") + np.searchsorted(ordered, x + slack, "right")
    return below / (2 * len(ordered))


def _spectrum(z: np.ndarray) -> dict[str, Any]:
    """Fractions of variance, and the effective rank exp(entropy of the singular values) (Roy & Vetterli 2007)."""
    singular = np.linalg.svd(z - z.mean(0), compute_uv=False)
    share = singular / singular.sum()
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum()
    variance = singular**2 / (singular**2).sum()
    return {"effective_rank": float(np.exp(entropy)), "spectrum": variance}


def _nuisances(
    model: Any, truth: RecordedTruth, z: np.ndarray, in_z: np.ndarray, rng: torch.Generator
) -> dict[str, Any]:
    """How far z moves under pixel noise (sd 8 of 255) and 10 % less light, in units of the nearest other place."""
    images = truth.images.float()
    noise = torch.randn(images.shape, generator=rng, device=rng.device).cpu() * 8
    nearest = float(np.where(np.eye(len(in_z), dtype=bool), np.inf, in_z).min(1).mean())
    out = {}
    for name, changed in (("noise", images + noise), ("light", images * 0.9)):
        shifted = numpy(encode(model, changed.round().clamp(0, 255).to(torch.uint8)))
        shift = float(np.linalg.norm(shifted - z, axis=-1).mean())
        out[f"shift_{name}"] = shift / nearest if nearest > 0 else Refused("places lie on each other in z")
    return out


def _position(model: Any, batch: Batch, truth: RecordedTruth, rng: torch.Generator) -> dict[str, Any]:
    """Error in pixels of a ridge probe z -> position, at positions of other folds.

    One frame per distinct position, so that a place recorded twice cannot be on both sides of the split.
    """
    frames = torch.cat([truth.images, batch.obs["image"].flatten(0, 1)])
    position = np.concatenate([numpy(truth.places.position), numpy(truth.position).reshape(-1, 2)])
    _, first = np.unique(np.round(position, 2), axis=0, return_index=True)
    draw = numpy_generator(rng)
    first = draw.permutation(first)[:ROWS]
    z, where = numpy(encode(model, frames[torch.from_numpy(first)])), position[first]
    try:
        predicted = cross_validated(z, where, np.arange(len(first)) % FOLDS, "the position probe")
    except UserError as error:
        return {"position_error": Refused(str(error))}
    off = np.linalg.norm(predicted - where, axis=-1)
    baseline = float(np.linalg.norm(where - where.mean(0), axis=-1).mean())
    return {"position_error": Estimate(off.mean(), bootstrap_mean(off, draw), baseline)}


@figure("perceptual", PERCEPTUAL, order=70)
def z_against_displacement(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """Distance in z against visible displacement, with pipes in colour; and the spectrum of z."""
    if not has(arrays, "perception.pair_z", "perception.spectrum"):
        return None
    t = THEMES[theme]
    visible, in_z = np.asarray(arrays["perception.pair_displacement"]), np.asarray(arrays["perception.pair_z"])
    drawing = Figure(figsize=(10.6, 3.9))
    pairs, spectrum = drawing.subplots(1, 2, width_ratios=[1.6, 1])
    pairs.plot(visible, in_z, ".", color=t.cycle[0], ms=3.2, alpha=0.3, mew=0, rasterized=True, label="two places")
    edges = np.quantile(visible, np.linspace(0, 1, 13))
    inside = [(visible >= a) & (visible <= b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    middle = [(np.median(visible[m]), np.median(in_z[m])) for m in inside if m.any()]
    pairs.plot(*zip(*middle, strict=True), color=t.ink, lw=1.6, label="median")
    if has(arrays, "perception.pipe_z"):
        pairs.plot(
            arrays["perception.pipe_displacement"], arrays["perception.pipe_z"], "D", color=t.cycle[2], ms=6.5,
            mec=t.paper, mew=1, label="two ends of a pipe",
        )  # fmt: skip
    pairs.set(xlabel="visible displacement, px", title="Distance in z", xlim=(0, None), ylim=(0, None))
    legend(pairs, loc="upper left", markerscale=1.4)
    share = np.asarray(arrays["perception.spectrum"])[:24]
    spectrum.bar(np.arange(1, len(share) + 1), 100 * share, color=t.cycle[0], width=0.75)
    spectrum.set(xlabel="principal direction of z", title="Variance of z over places, %")
    spectrum.set_xlim(0.3, max(len(share), 6) + 0.7)
    spectrum.grid(axis="x", visible=False)
    return drawing
