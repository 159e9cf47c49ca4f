"""Intervals and rank statistics, in numpy, each checked against brute force in the tests.

Every interval is two-sided, at 95 % by default. Randomness is an explicit `numpy.random.Generator`.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Real

from isochrone.core.errors import UserError

Interval = tuple[float, float]


def wilson(successes: int, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); stays inside [0, 1] and is honest at 0 % and 100 %."""
    if count < 1 or not 0 <= successes <= count:
        raise UserError(f"wilson: {successes} successes of {count} trials is no share; give at least one trial")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return float(max(0.0, min(centre - half, share))), float(min(1.0, max(centre + half, share)))


def bootstrap_mean(
    x: Real[np.ndarray, " N"], rng: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of a mean."""
    x = np.asarray(x, float).ravel()
    if x.size == 0:
        raise UserError("bootstrap_mean: no values; measure at least one")
    weight = rng.multinomial(x.size, np.full(x.size, 1 / x.size), size=draws)  # (draws, N)
    return _percentiles(weight @ x / x.size, level)


def paired_bootstrap(
    a: Real[np.ndarray, " N"],
    b: Real[np.ndarray, " M"],
    rng: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of a - b over the same N trials, with its interval: (mean, low, high)."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise UserError(f"paired_bootstrap: {a.shape} against {b.shape}; both must come from the same trials")
    return float((a - b).mean()), *bootstrap_mean(a - b, rng, draws, level)


def horizon_curve(
    values: Float[np.ndarray, "B S H"],
    valid: Bool[np.ndarray, "B S H"],
    rng: np.random.Generator,
    average: Literal["rows", "episodes"] = "rows",
) -> tuple[Float[np.ndarray, " H"], Float[np.ndarray, " H"], Float[np.ndarray, " H"]]:
    """(mean, low, high) at each horizon, over the valid entries of B episodes with S starts each. NaN without any.

    The interval resamples episodes, because rows of one episode are not independent. `average`: the mean over all
    valid rows, or over the episodes' own means.
    """
    mean, low, high = [], [], []
    for k in range(values.shape[-1]):
        x, mask = values[..., k], valid[..., k]
        episodes = [float(v[m].mean()) for v, m in zip(x, mask, strict=True) if m.any()]
        if not episodes:
            mean.append(np.nan)
            low.append(np.nan)
            high.append(np.nan)
            continue
        ends = bootstrap_mean(np.array(episodes), rng, 400)
        mean.append(float(x[mask].mean()) if average == "rows" else float(np.mean(episodes)))
        low.append(ends[0])
        high.append(ends[1])
    return np.array(mean), np.array(low), np.array(high)


def valid_mean(values: np.ndarray, valid: Bool[np.ndarray, "..."]) -> float:
    """Mean of the valid entries; NaN without any."""
    return float(values[valid].mean()) if valid.any() else float("nan")


def _percentiles(values: Float[np.ndarray, " N"], level: float) -> Interval:
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def ranks(x: Real[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks 1..N; equal values share the average of their ranks."""
    x = np.asarray(x, float).ravel()
    _, which, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # the highest rank of each distinct value
    return (last - (count - 1) / 2)[which]


def spearman(a: Real[np.ndarray, " N"], b: Real[np.ndarray, " N"]) -> float:
    """Rank correlation: Pearson's correlation of the average ranks. NaN when either side is constant."""
    a, b = ranks(a), ranks(b)
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def euclidean_distances(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N N"]:
    """Distance between every two rows."""
    rows = torch.from_numpy(x)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def auroc(score: Real[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """Probability that a positive scores above a negative, ties counting half. NaN without both kinds."""
    positive = np.asarray(positive, bool).ravel()
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float("nan")
    return float((ranks(score)[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


def auroc_interval(
    score: Real[np.ndarray, " N"], positive: Bool[np.ndarray, " N"], rng: np.random.Generator, draws: int = 400
) -> Interval:
    """Bootstrap interval of `auroc`; positives and negatives are resampled apart."""
    score, positive = np.asarray(score, float).ravel(), np.asarray(positive, bool).ravel()
    yes, no = score[positive], score[~positive]
    label = np.r_[np.ones(yes.size, bool), np.zeros(no.size, bool)]
    values = [auroc(np.r_[rng.choice(yes, yes.size), rng.choice(no, no.size)], label) for _ in range(draws)]
    return _percentiles(np.array(values), 0.95)


# --- statistics over pairs of places --------------------------------------------------------------------------------


def over_places(
    statistic: Callable[[Float[np.ndarray, "C C"]], float], places: int, rng: np.random.Generator, draws: int = 200
) -> Interval:
    """Bootstrap interval of a statistic of pairs; *places* are resampled: pairs that share one are not independent.

    `statistic` takes the weight of every ordered pair, (C, C).
    """
    weights = rng.multinomial(places, np.full(places, 1 / places), size=draws).astype(float)  # (draws, C)
    values = np.array([statistic(np.outer(w, w)) for w in weights])
    values = values[np.isfinite(values)]
    return _percentiles(values, 0.95) if values.size else (float("nan"), float("nan"))


def pair_mean(values: np.ndarray, mask: Bool[np.ndarray, "C C"], rng: np.random.Generator) -> Interval:
    """Interval of the mean of a (C, C) matrix over the pairs in `mask`."""
    masked = np.where(mask, values, 0.0).astype(float)

    def mean(weight: np.ndarray) -> float:
        total = float((weight * mask).sum())
        return float((weight * masked).sum()) / total if total else float("nan")

    return over_places(mean, len(mask), rng)


def pair_spearman(a: np.ndarray, b: np.ndarray, mask: Bool[np.ndarray, "C C"], rng: np.random.Generator) -> Interval:
    """Interval of the rank correlation of two (C, C) matrices over the pairs in `mask`.

    The ranks are those of the full sample; only the pairs' weights are resampled.
    """
    ra, rb = np.zeros(mask.shape), np.zeros(mask.shape)
    ra[mask], rb[mask] = ranks(a[mask]), ranks(b[mask])

    def correlation(weight: np.ndarray) -> float:
        w = weight * mask
        total = w.sum()
        if not total:
            return float("nan")
        x, y = ra - (w * ra).sum() / total, rb - (w * rb).sum() / total
        scale = np.sqrt((w * x * x).sum() * (w * y * y).sum())
        return float((w * x * y).sum() / scale) if scale else float("nan")

    return over_places(correlation, len(mask), rng)
