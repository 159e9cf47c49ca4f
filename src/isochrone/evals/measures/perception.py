"""Is z perceptual? Near in z must mean near in the picture, whatever actions it takes; pipes included."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth
from isochrone.evals.model_access import encode, generator, needs, numpy
from isochrone.evals.probe import crossed
from isochrone.evals.stats import bootstrap_mean, pair_spearman, spearman

PAIRS = 4096
ROWS = 1500
FOLDS = 5


@register("metric", "perception")
@needs("encode_image")
@torch.no_grad()
def perception(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """Spearman of z distance against visible displacement, pipe ends, position probe, spectrum, nuisances."""
    z = numpy(encode(model, truth.images))  # (C, Z), one row per place
    far, seen = _apart(z), truth.displacement  # (C, C) both
    upper = np.triu(np.ones(far.shape, bool), 1)
    out: dict[str, Any] = {
        "spearman": spearman(far[upper], seen[upper]),
        "spearman.interval": pair_spearman(far, seen, upper, generator(rng)),
        "spearman.floor": 0.0,
    }
    pick = generator(rng).permutation(int(upper.sum()))[:PAIRS]
    out |= {"pair_z": far[upper][pick], "pair_displacement": seen[upper][pick]}
    out |= _frames(model, batch, truth, rng)
    out |= _pipe_ends(far, seen, upper, z, model, truth)
    out |= _spectrum(z)
    out |= _nuisances(model, truth, z, far, rng)
    return out | _position(model, batch, truth, rng)


def _apart(z: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(z)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def _frames(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """The same correlation over random pairs of recorded frames, with whatever noise the world adds to them."""
    draw, (count, length) = generator(rng), batch.shape
    pick = draw.choice(count * length, min(400, count * length), replace=False)
    frames = batch.obs["image"].flatten(0, 1)[pick]
    states = truth.state.map(lambda x: x.flatten(0, 1))[torch.from_numpy(pick)]
    far, seen = _apart(numpy(encode(model, frames))), truth.apart(states, states)
    upper = np.triu(np.ones(far.shape, bool), 1)
    return {"spearman_frames": spearman(far[upper], seen[upper])}


def _pipe_ends(
    far: np.ndarray, seen: np.ndarray, upper: np.ndarray, z: np.ndarray, model: Any, truth: Truth
) -> dict[str, Any]:
    """Rank of each pipe's two ends among all pairs: by z, minus by displacement (0 = as far as they look)."""
    pipes = truth.pipes
    if not len(pipes.place):
        return {}
    landed = numpy(encode(model, truth.env.draw(pipes.next)))  # (P, Z)
    in_z = np.linalg.norm(landed - z[pipes.place.numpy()], axis=-1)
    in_view = np.asarray(truth.env.displacement(pipes.start, pipes.next).cpu(), float)
    gap = _percentile(in_z, far[upper]) - _percentile(in_view, seen[upper])
    return {
        "pipe_ends_gap": float(np.abs(gap).max()),
        "pipe_ends_gap_mean": float(np.abs(gap).mean()),
        "pipe_z": in_z,
        "pipe_displacement": in_view,
    }


def _percentile(x: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of `among` below x, ties counting half."""
    ordered = np.sort(among)
    slack = 1e-9 * max(1.0, float(np.abs(ordered).max()))  # equal distances computed twice may differ in the last bit
    below = np.searchsorted(ordered, x - slack, "left") + np.searchsorted(ordered, x + slack, "right")
    return below / (2 * len(ordered))


def _spectrum(z: np.ndarray) -> dict[str, Any]:
    """Shares of variance, and the effective rank exp(entropy of the singular values) (Roy & Vetterli 2007)."""
    singular = np.linalg.svd(z - z.mean(0), compute_uv=False)
    share = singular / max(singular.sum(), 1e-12)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum()
    variance = singular**2 / max(float((singular**2).sum()), 1e-12)
    return {"effective_rank": float(np.exp(entropy)), "spectrum": variance}


def _nuisances(model: Any, truth: Truth, z: np.ndarray, far: np.ndarray, rng: torch.Generator) -> dict[str, Any]:
    """How far z moves under pixel noise (sd 8 of 255) and 10 % less light, in units of the nearest other place."""
    images = truth.images.float()
    noise = torch.randn(images.shape, generator=rng, device=rng.device).cpu() * 8
    nearest = float(np.where(np.eye(len(far), dtype=bool), np.inf, far).min(1).mean())
    out = {}
    for name, changed in (("noise", images + noise), ("light", images * 0.9)):
        shifted = numpy(encode(model, changed.round().clamp(0, 255).to(torch.uint8)))
        out[f"shift_{name}"] = float(np.linalg.norm(shifted - z, axis=-1).mean() / max(nearest, 1e-12))
    return out


def _position(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """Error in pixels of a ridge probe z -> position, on positions that it has not been trained on.

    One frame per distinct position, so that a place seen twice cannot be on both sides of the split.
    """
    frames = torch.cat([truth.images, batch.obs["image"].flatten(0, 1)])
    position = np.concatenate([numpy(truth.places.position), numpy(truth.position).reshape(-1, 2)])
    _, first = np.unique(np.round(position, 2), axis=0, return_index=True)
    draw = generator(rng)
    first = draw.permutation(first)[:ROWS]
    z, where = numpy(encode(model, frames[torch.from_numpy(first)])), position[first]
    try:
        guess = crossed(z, where, np.arange(len(first)) % FOLDS, "the position probe")
    except UserError as error:
        return {"position_error.refused": str(error)}
    off = np.linalg.norm(guess - where, axis=-1)
    return {
        "position_error": float(off.mean()),
        "position_error.interval": bootstrap_mean(off, draw),
        "position_error.floor": float(np.linalg.norm(where - where.mean(0), axis=-1).mean()),
    }
