"""Is p reachability? d_p against the true fewest actions, over all ordered pairs whose goal can be reached."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isochrone.core.registry import register
from isochrone.core.types import Batch
from isochrone.evals.ground_truth import Truth
from isochrone.evals.model_access import between, fresh, generator, needs
from isochrone.evals.stats import pair_mean, pair_spearman, spearman

LOPSIDED = 4
"""Actions by which the two directions must differ before their order is asked for."""
SAMPLE = 4096


@register("metric", "reach")
@needs("distance", "update")
@torch.no_grad()
def reach(model: Any, batch: Batch, truth: Truth, rng: torch.Generator) -> dict[str, Any]:
    """Spearman, mean absolute error in actions, asymmetry, calibration; and the arrays of the isochrone map.

    Floors: visible displacement in place of d_p (rank), the best constant (error), and a coin (asymmetry).
    Intervals resample places, because pairs that share a place are not independent.
    """
    states, draw = fresh(model, truth.images, truth.spec.action), generator(rng)
    guess, true, goals = between(model, states, states, "p"), truth.table, truth.goals
    exact = np.where(goals, true, 0.0)
    error = np.abs(guess - exact)
    out: dict[str, Any] = {
        "spearman": spearman(guess[goals], true[goals]),
        "spearman.interval": pair_spearman(guess, exact, goals, draw),
        "spearman.floor": spearman(truth.displacement[goals], true[goals]),
        "mae": float(error[goals].mean()),
        "mae.interval": pair_mean(error, goals, draw),
        "mae.floor": float(np.abs(true[goals] - np.median(true[goals])).mean()),
        "bias": float((guess - exact)[goals].mean()),
        "pairs": float(goals.sum()),
    }
    out |= _asymmetry(guess, true, goals, draw)
    out |= _calibration(guess[goals], true[goals])
    pick = draw.permutation(np.flatnonzero(goals))[:SAMPLE]
    out |= {
        "pair_p": guess.ravel()[pick],
        "pair_true": true.ravel()[pick],
        "pair_z": between(model, states, states, "z").ravel()[pick],
    }
    return out | _map(guess, truth)


def _asymmetry(guess: np.ndarray, true: np.ndarray, goals: np.ndarray, draw: np.random.Generator) -> dict[str, Any]:
    """Share of pairs that differ by >= 4 actions between directions where d_p knows the longer one (a tie is wrong)."""
    with np.errstate(invalid="ignore"):
        gap = np.where(goals & goals.T, true - true.T, 0.0)
    lopsided = np.triu(np.abs(gap) >= LOPSIDED)
    if not lopsided.any():
        return {}
    right = np.sign(guess - guess.T) == np.sign(gap)
    return {
        "asymmetry": float(right[lopsided].mean()),
        "asymmetry.interval": pair_mean(right.astype(float), lopsided, draw),
        "asymmetry.floor": 0.5,
        "asymmetry_pairs": float(lopsided.sum()),
    }


def _calibration(guess: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Mean and central 80 % of d_p at each true distance."""
    steps = np.unique(true)
    spread = np.array([np.quantile(guess[true == d], [0.1, 0.5, 0.9]) for d in steps])  # (D, 3)
    return {"calibration_true": steps, "calibration_p": spread}


def _map(guess: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Everything that the isochrone map draws, from the place where the picture misleads most about distance."""
    true, seen, goals = truth.table, truth.displacement, truth.goals
    exits = np.bincount(truth.moves.place.cpu().numpy()[truth.moves.ordinary.cpu().numpy()], minlength=len(true))
    roomy = exits >= min(3, exits.max())  # not in a door or a dead end
    enough = [i for i in range(len(true)) if roomy[i] and goals[i].sum() >= 0.5 * goals.sum(1).max()]
    enough = enough or list(range(len(true)))
    misled = [spearman(seen[i][goals[i]], true[i][goals[i]]) for i in enough]
    source = enough[int(np.argmin(np.nan_to_num(misled, nan=1.0)))]
    pipes, images = truth.pipes, truth.images.cpu().numpy()
    world = np.median(images, axis=0)  # (3, Y, X): the box is in few of the pictures at each pixel
    offset = _offset(images, world, truth.places.position.cpu().numpy())
    return {
        "map_world": world.astype(np.uint8),
        "map_xy": truth.places.position.cpu().numpy() + offset,  # (C, 2) px, x then y
        "map_offset": offset,
        "map_source": np.array(source),
        "map_p": guess[source],  # (C,) actions
        "map_true": true[source],
        "map_pipe_from": pipes.place.cpu().numpy(),
        "map_pipe_to": truth.env.index(pipes.next).cpu().numpy() if len(pipes.place) else np.zeros(0, int),
    } | _passages(truth, offset)


def _passages(truth: Truth, offset: np.ndarray) -> dict[str, Any]:
    """Pipe mouths (one step beyond the places they are entered from), and passages not walked back in one step."""
    moves, pipes = truth.moves, truth.pipes
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
    if len(one_way) > 0.1 * len(start):  # momentum: hardly anything can be walked back in one step
        one_way = []
    return {
        "map_pipe_mouth": truth.places.position[pipes.place].cpu().numpy() + usual[pipes.kind.cpu().numpy()] + offset,
        "map_one_way": np.array(sorted(set(one_way)), int).reshape(-1, 2),
    }


def _offset(images: np.ndarray, world: np.ndarray, position: np.ndarray) -> np.ndarray:
    """From a box's position to the centre of what is seen of it, px (x, y)."""
    box = np.abs(images - world).sum(1)  # (C, Y, X)
    mass = box.sum((1, 2))
    seen = mass > 0  # an occluder may hide it
    y, x = np.indices(box.shape[1:])
    centre = np.stack([(box * x).sum((1, 2)), (box * y).sum((1, 2))], -1)[seen] / mass[seen, None]
    return np.median(centre - position[seen], axis=0) if seen.any() else np.zeros(2)
