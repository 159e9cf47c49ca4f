"""Intervals and rank statistics, in numpy, each checked against brute force in the tests.

Every interval is two-sided, at 95 %. How often each one holds the truth is simulated by bench/coverage.py; the bar is
93 %. Where data cannot say how far off they may be (one value, or all equal), the interval has no width or is None.
Randomness is an explicit `numpy.random.Generator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Real

from isochrone.core.errors import UserError

Interval = tuple[float, float]
LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)

# --- one sample -----------------------------------------------------------------------------------------------------


@lru_cache
def student_t(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t (12.706, 4.303, 3.182, ... for 1, 2, 3, ... degrees of freedom)."""
    if freedom < 1:
        raise UserError(f"student_t: {freedom} degrees of freedom; an interval needs at least 2 values")
    if freedom > 200:  # Cornish and Fisher (1938); exact to 1e-8 here
        return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
    return _bisect(lambda t: _t_within(t, freedom) - LEVEL, 0.0, 13.0)


def _t_within(t: float, freedom: int) -> float:
    """P(|T| < t), by the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cos2, odd = math.cos(angle) ** 2, freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cos2
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def _bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function changes its sign."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if f(middle) > 0 else (middle, high)
    return (low + high) / 2


def t_interval(values: Sequence[float] | Real[np.ndarray, " N"]) -> Interval | None:
    """Of the mean of independent values of about normal distribution (seeds, say), by Student's t; None below two."""
    x = np.asarray(values, float)
    if x.size < 2:
        return None
    half = student_t(x.size - 1) * x.std(ddof=1) / math.sqrt(x.size)
    return float(x.mean() - half), float(x.mean() + half)


@lru_cache
def clopper_pearson(successes: int, count: int) -> Interval:
    """Of a share of independent trials (Clopper & Pearson 1934): it covers at least 95 % at every share.

    Wilson's interval covers less near 0 and 1 (84 % at worst), which is where planners that work are.
    """
    if count < 1 or not 0 <= successes <= count:
        raise UserError(f"clopper_pearson: {successes} of {count} trials is no share; give at least one trial")
    tail = (1 - LEVEL) / 2
    low = _bisect(lambda p: _at_least(successes, count, p) - tail, 0.0, 1.0) if successes else 0.0
    high = 1 - _bisect(lambda q: _at_least(count - successes, count, q) - tail, 0.0, 1.0) if successes < count else 1.0
    return low, high


def _at_least(successes: int, count: int, share: float) -> float:
    """P(X >= successes) of a binomial X."""
    k = np.arange(successes, count + 1)
    return float(np.exp(_log_choose(count)[k] + k * math.log(share) + (count - k) * math.log1p(-share)).sum())


@lru_cache
def _log_choose(count: int) -> Float[np.ndarray, " K"]:
    factorial = np.concatenate([[0.0], np.log(np.arange(1, count + 1)).cumsum()])
    return factorial[-1] - factorial - factorial[::-1]


def bootstrap_mean(x: Real[np.ndarray, " N"], rng: np.random.Generator, draws: int = 2000) -> Interval:
    """Of the mean of independent values of any distribution.

    The studentized bootstrap (Efron 1981), which sees the skew of the values, joined with Student's t, which is exact
    for a few normal values: the percentile bootstrap covers 85 % at N = 5. Where resamples of a few values have
    hardly any spread, the bootstrap's quantiles are cut at `WIDEST` times that of t. No width if all values are equal.
    """
    x = np.asarray(x, float).ravel()
    if x.size == 0:
        raise UserError("bootstrap_mean: no values; measure at least one")
    mean, spread = x.mean(), x.std()
    if x.size == 1 or spread <= 1e-12 * abs(mean):
        return float(mean), float(mean)
    t, centred = student_t(x.size - 1), x - mean
    weight = rng.multinomial(x.size, np.full(x.size, 1 / x.size), size=draws) / x.size  # (draws, N)
    shift = weight @ centred  # (draws,)
    scale = np.sqrt(np.maximum(weight @ centred**2 - shift**2, 0.0) / (x.size - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        studentized = np.nan_to_num(shift / scale, nan=0.0, posinf=np.inf, neginf=-np.inf)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(studentized.clip(-WIDEST * t, WIDEST * t), [tail, 1 - tail])
    error = spread / math.sqrt(x.size - 1)
    return float(mean - max(high, t) * error), float(mean - min(low, -t) * error)


WIDEST = 2.0
"""Of a studentized bootstrap, in units of Student's t."""


def ratio_interval(above: Real[np.ndarray, " N"], below: Real[np.ndarray, " N"]) -> Interval:
    """Of sum(above) / sum(below) over N independent units (episodes, say) that contribute unequally to both sums.

    Delete-one jackknife with Student's t. No width for a single unit.
    """
    above, below = np.asarray(above, float), np.asarray(below, float)
    ratio = above.sum() / below.sum()
    if above.size < 2:
        return float(ratio), float(ratio)
    return jackknife_interval(float(ratio), (above.sum() - above) / (below.sum() - below))


def jackknife_interval(estimate: float, without: Float[np.ndarray, " N"]) -> Interval:
    """From the estimates without each of N units: Student's t on the jackknife's standard error (Tukey 1958)."""
    without = without[np.isfinite(without)]
    if without.size < 2:
        return float("nan"), float("nan")
    count = without.size
    error = math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = student_t(count - 1) * error
    return estimate - half, estimate + half


# --- shares over seeds ----------------------------------------------------------------------------------------------


def hull(*intervals: Interval) -> Interval:
    """The least interval that contains all of these."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def share_over_seeds(successes: Sequence[int], counts: Sequence[int]) -> Interval | None:
    """Of the mean share over training seeds, each measured on its own trials; None below two seeds.

    Seeds differ, so that trials of one model are not independent: Student's t over the seeds' shares, and over their
    angles asin sqrt(share) (Anscombe 1948), because shares near 0 or 1 are skewed. Where the seeds are nearly equal
    their spread says little, and the interval is at least as wide as that of the pooled trials.
    """
    spread = t_interval([k / n for k, n in zip(successes, counts, strict=True)])
    if spread is None:
        return None
    angles = np.arcsin(np.sqrt((np.array(successes) + 0.375) / (np.array(counts) + 0.75)))
    low, high = np.clip(t_interval(angles) or spread, 0, math.pi / 2)
    skewed = float(np.sin(low) ** 2), float(np.sin(high) ** 2)
    low, high = hull(spread, skewed, clopper_pearson(sum(successes), sum(counts)))
    return max(0.0, low), min(1.0, high)


def difference_over_seeds(first: Sequence[int], second: Sequence[int], counts: Sequence[int]) -> Interval | None:
    """Of the mean difference of two shares on the same trials, over seeds; None below two.

    Args:
        first, second: trials of each seed at which only the first, or only the second, succeeded.

    Student's t over the seeds' differences, joined with the interval that follows from those of both shares (Zou &
    Donner 2008), which is skewed as they are.
    """
    spread = t_interval([(a - b) / n for a, b, n in zip(first, second, counts, strict=True)])
    one, other = share_over_seeds(first, counts), share_over_seeds(second, counts)
    if spread is None or one is None or other is None:
        return None
    (low_a, high_a), (low_b, high_b) = one, other
    a, b = (sum(successes) / sum(counts) for successes in (first, second))
    skewed = a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)
    low, high = hull(spread, skewed)
    return max(-1.0, low), min(1.0, high)


# --- curves ---------------------------------------------------------------------------------------------------------


def horizon_curve(
    values: Float[np.ndarray, "B S H"],
    valid: Bool[np.ndarray, "B S H"],
    rng: np.random.Generator,
    average: Literal["rows", "episodes"] = "rows",
) -> tuple[Float[np.ndarray, " H"], Float[np.ndarray, " H"], Float[np.ndarray, " H"]]:
    """(mean, low, high) at each horizon, over the valid entries of B episodes with S starts each. NaN without any.

    The intervals are over episodes, because rows of one episode are not independent. `average`: the mean over all valid
    rows, or over the episodes' own means.
    """
    count = valid.sum(1)  # (B, H)
    total = np.where(valid, values, 0.0).sum(1)
    out = np.full((3, values.shape[-1]), np.nan)
    for k in range(values.shape[-1]):
        some = count[:, k] > 0
        if not some.any():
            continue
        rows, sums = count[some, k], total[some, k]
        if average == "rows":
            out[:, k] = (sums.sum() / rows.sum(), *ratio_interval(sums, rows))
        else:
            out[:, k] = ((sums / rows).mean(), *bootstrap_mean(sums / rows, rng, 400))
    return out[0], out[1], out[2]


def valid_mean(values: np.ndarray, valid: Bool[np.ndarray, "..."]) -> float:
    """Mean of the valid entries; NaN without any."""
    return float(values[valid].mean()) if valid.any() else float("nan")


# --- ranks ----------------------------------------------------------------------------------------------------------


def ranks(x: Real[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks 1..N; equal values share the average of their ranks. All NaN where one value is: NaN has no rank."""
    x = np.asarray(x, float).ravel()
    if np.isnan(x).any():
        return np.full(x.shape, np.nan)
    _, which, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # the highest rank of each distinct value
    return (last - (count - 1) / 2)[which]


def spearman(a: Real[np.ndarray, " N"], b: Real[np.ndarray, " N"]) -> float:
    """Rank correlation: Pearson's correlation of the average ranks. NaN when either side is constant or has a NaN."""
    a, b = ranks(a), ranks(b)
    if a.size < 2 or np.isnan(a).any() or np.isnan(b).any() or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def euclidean_distances(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N N"]:
    """Distance between every two rows."""
    rows = torch.from_numpy(x)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def auroc(score: Real[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """Probability that a positive scores above a negative, ties counting half. NaN without both kinds or with a NaN."""
    positive = np.asarray(positive, bool).ravel()
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float("nan")
    return float((ranks(score)[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


def auroc_interval(share: float, positives: int, negatives: int) -> Interval:
    """Of an AUROC from independent positives and negatives: the values whose own standard error explains `share`.

    Newcombe (2006), method 5, with the variance of Hanley & McNeil (1982): honest for a few positives and at 0 and 1,
    where resampling gives no width.
    """
    if not positives or not negatives or math.isnan(share):
        return float("nan"), float("nan")
    pairs, half = positives * negatives, (positives + negatives) / 2 - 1

    def error(a: float) -> float:
        return math.sqrt(a * (1 - a) * (1 + half * ((1 - a) / (2 - a) + a / (1 + a))) / pairs)

    low = _bisect(lambda a: a + Z * error(a) - share, 0.0, share) if share > 0 else 0.0
    high = _bisect(lambda a: a - Z * error(a) - share, share, 1.0) if share < 1 else 1.0
    return low, high


# --- statistics over pairs of places --------------------------------------------------------------------------------
# Pairs that share a place are not independent: every interval below is a jackknife over places. Each statistic is a
# function of sums over pairs, from which the pairs of one place are easily taken away.


def without_each(values: Float[np.ndarray, "C C"]) -> Float[np.ndarray, " C"]:
    """The sum of a matrix without row and column k, for every k."""
    return values.sum() - values.sum(0) - values.sum(1) + values.diagonal()


def pair_mean(values: np.ndarray, mask: Bool[np.ndarray, "C C"]) -> Interval:
    """Interval of the mean of a (C, C) matrix over the pairs in `mask`."""
    masked = np.where(mask, values, 0.0).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = without_each(masked) / without_each(mask.astype(float))
    return jackknife_interval(float(masked.sum() / mask.sum()), without)


def pair_share(right: Bool[np.ndarray, "C C"], mask: Bool[np.ndarray, "C C"]) -> Interval:
    """Interval of the share of `right` among the pairs in `mask`.

    Where all or none are right, that of as many independent trials as there are places with such a pair.
    """
    low, high = pair_mean(right.astype(float), mask)
    places = int((mask.any(0) | mask.any(1)).sum())
    if low == high:
        return clopper_pearson(places if right[mask].all() else 0, places)
    return max(0.0, low), min(1.0, high)


def pair_spearman(a: np.ndarray, b: np.ndarray, mask: Bool[np.ndarray, "C C"]) -> Interval:
    """Interval of the rank correlation of two (C, C) matrices over the pairs in `mask`, on Fisher's scale.

    The ranks are those of the full sample. NaN where the correlation is.
    """
    ra, rb = np.zeros(mask.shape), np.zeros(mask.shape)
    ra[mask], rb[mask] = ranks(a[mask]), ranks(b[mask])
    ra, rb = (np.where(mask, x - x[mask].mean(), 0.0) for x in (ra, rb))  # centred: no cancellation below

    def correlation(reduce: Callable[[np.ndarray], Any]) -> Any:
        count, x, y, xx, yy, xy = (reduce(m) for m in (mask.astype(float), ra, rb, ra * ra, rb * rb, ra * rb))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (xy - x * y / count) / np.sqrt((xx - x * x / count) * (yy - y * y / count))

    whole = float(correlation(np.sum))
    if math.isnan(whole) or abs(whole) > 1 - 1e-12:
        return whole, whole
    low, high = jackknife_interval(math.atanh(whole), np.arctanh(correlation(without_each).clip(-1, 1)))
    return math.tanh(low), math.tanh(high)


def pair_auroc(
    score: np.ndarray, positive: Bool[np.ndarray, "C C"], negative: Bool[np.ndarray, "C C"]
) -> tuple[float, Interval]:
    """(AUROC of the positive against the negative pairs of a (C, C) matrix, its interval).

    At 0 or 1 the interval is that of as many independent positives and negatives as there are places with such pairs.
    """
    yes, no = np.sort(score[positive]), np.sort(score[negative])
    if not yes.size or not no.size or np.isnan(yes[-1]) or np.isnan(no[-1]):
        return float("nan"), (float("nan"), float("nan"))
    beats, loses = np.zeros(score.shape), np.zeros(score.shape)  # negatives below each positive, positives above
    beats[positive] = _below(no, score[positive])
    loses[negative] = yes.size - _below(yes, score[negative])
    both = np.zeros(len(score))  # wins of the positives of a place over its negatives
    for k in range(len(score)):
        values, wins = (np.r_[m[k], np.delete(m[:, k], k)] for m in (score, positive))
        losses = np.r_[negative[k], np.delete(negative[:, k], k)]
        both[k] = _below(np.sort(values[losses]), values[wins]).sum()
    wins = without_each(beats) - (loses.sum() - without_each(loses)) + both
    with np.errstate(divide="ignore", invalid="ignore"):
        without = wins / (without_each(positive.astype(float)) * without_each(negative.astype(float)))
    share = float(beats.sum() / (yes.size * no.size))
    low, high = jackknife_interval(share, without)
    if low == high:
        return share, auroc_interval(share, *(int((m.any(0) | m.any(1)).sum()) for m in (positive, negative)))
    return share, (max(0.0, low), min(1.0, high))


def _below(ordered: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How many of the sorted values lie below each x; equal ones count half."""
    return (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / 2
