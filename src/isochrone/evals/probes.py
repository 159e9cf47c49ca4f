"""Linear probes: ridge regression with a held-out score, its strength chosen on the training rows only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from isochrone.core.errors import UserError
from isochrone.evals.metric import Refused

STRENGTHS = np.logspace(-8, 2, 21)
"""Candidate ridge strengths, as fractions of the mean feature variance."""

VARIES = 1e-7
"""Standard deviation from which a feature varies, in units of the largest mean (at least 1): below it is rounding."""


@dataclass(frozen=True)
class Ridge:
    """y = (x - mean) / scale @ weight + offset."""

    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    weight: Float[np.ndarray, "F K"]
    offset: Float[np.ndarray, " K"]

    def __call__(self, x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N K"]:
        return (x - self.mean) / self.scale @ self.weight + self.offset


def ridge(x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N K"], what: str = "the probe") -> Ridge:
    """Fit standardised features; the strength minimises the exact leave-one-out error (PRESS, Allen 1974).

    Raises UserError when there are not more rows than features (such a probe fits anything), or when the features are
    not finite or do not vary (it says nothing of them).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    rows, features = x.shape
    if not np.isfinite(x).all():
        raise UserError(f"{what} reads features that are not finite: the model has diverged")
    if rows <= features + 1:
        raise UserError(f"{what} has {rows} rows for {features} features and would fit anything; record more episodes")
    mean, scale = x.mean(0), x.std(0)
    varies = scale > VARIES * max(1.0, float(np.abs(mean).max()))
    if not varies.any():
        raise UserError(f"{what} reads features that do not vary: the model has collapsed")
    scale = np.where(varies, scale, 1.0)
    offset = y.mean(0)
    u, s, vt = np.linalg.svd((x - mean) / scale, full_matrices=False)
    projected = u.T @ (y - offset)  # (F, K)
    best, weight = np.inf, np.zeros((features, y.shape[1]))
    for strength in STRENGTHS * rows:
        shrink = s * s / (s * s + strength)
        leverage = (u * u) @ shrink + 1 / rows
        left_out = ((y - offset) - u @ (shrink[:, None] * projected)) / np.maximum(1 - leverage, 1e-6)[:, None]
        if (press := float((left_out**2).sum())) < best:
            best, weight = press, vt.T @ ((s / (s * s + strength))[:, None] * projected)
    return Ridge(mean, scale, weight, offset)


def r2(y: Float[np.ndarray, "N *K"], prediction: Float[np.ndarray, "N *K"]) -> float:
    """Fraction of variance explained, outputs pooled: 1 - SSE / SST. NaN when y does not vary."""
    total = float(((y - y.mean(0)) ** 2).sum())
    return 1 - float(((y - prediction) ** 2).sum()) / total if total > 1e-12 else float("nan")


def held_out_r2(
    x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N K"], train: Bool[np.ndarray, " N"], what: str = "the probe"
) -> float | Refused:
    """R^2 on the rows that are not in `train`, clipped below at -1; why not, where a probe would fit anything or there
    is nothing to read from or to read."""
    if train.all() or not train.any():
        return Refused(f"{what} needs at least 2 recorded episodes")
    try:
        fit = ridge(x[train], y[train], what)
    except UserError as error:
        return Refused(str(error))
    explained = r2(y[~train], fit(x[~train]))
    return Refused(f"{what}: what it reads does not vary") if np.isnan(explained) else max(-1.0, explained)


def cross_validated(
    x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N K"], fold: Int[np.ndarray, " N"], what: str = "the probe"
) -> Float[np.ndarray, "N K"]:
    """Predictions of every row by a fit to the other folds."""
    prediction = np.empty_like(np.asarray(y, float))
    for k in np.unique(fold):
        left_out = fold == k
        prediction[left_out] = ridge(x[~left_out], y[~left_out], what)(x[left_out])
    return prediction
