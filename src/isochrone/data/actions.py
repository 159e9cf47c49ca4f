"""Actions of other libraries as ours: whole numbers as one-hot rows, real numbers scaled to -1 .. 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec


@dataclass(frozen=True)
class Discrete:
    """Choices start .. start + count - 1 become one-hot rows."""

    count: int
    start: int = 0

    @property
    def spec(self) -> ActionSpec:
        """The actions as ours."""
        return ActionSpec("discrete", self.count)

    def encode(self, action: np.ndarray) -> Float32[np.ndarray, "T A"]:
        """(T) or (T, 1) whole numbers -> (T, A)."""
        index = action.reshape(len(action)).astype(np.int64) - self.start
        if len(index) and not 0 <= index.min() <= index.max() < self.count:
            raise UserError(
                f"actions go from {index.min() + self.start} to {index.max() + self.start}: their space has "
                f"{self.count} choices from {self.start}"
            )
        return np.eye(self.count, dtype=np.float32)[index]


@dataclass(frozen=True)
class Scaled:
    """Real numbers from low .. high become -1 .. 1; those outside are moved onto the bounds."""

    low: np.ndarray  # (A)
    high: np.ndarray  # (A)

    @property
    def spec(self) -> ActionSpec:
        """The actions as ours; zero is no action where it lies in the middle of the bounds."""
        return ActionSpec("continuous", len(self.low), noop=0 if np.array_equal(self.low, -self.high) else None)

    def encode(self, action: np.ndarray) -> Float32[np.ndarray, "T A"]:
        """(T, ...) real numbers -> (T, A)."""
        action = action.reshape(len(action), -1).astype(np.float64)
        width = np.where(self.high > self.low, self.high - self.low, 1)
        unit = (action - self.low) / width * 2 - 1
        return np.clip(unit, -1, 1).astype(np.float32)


def action_code(
    where: Path | str, actions: Iterable[np.ndarray], space: Mapping[str, Any]
) -> tuple[Discrete | Scaled, str]:
    """How actions (T, ...) are turned into ours, and a sentence that says so.

    By `space` (a Gymnasium space as JSON: type, n, start, low, high), or, where it is {}, by what the actions are.
    """
    if space.get("type") == "Discrete":
        code = Discrete(int(space["n"]), int(space.get("start", 0)))
        return code, f"actions: {code.count} choices"
    low, high, whole, sizes = np.inf, -np.inf, True, set[int]()
    for action in actions:
        flat = action.reshape(len(action), -1).astype(np.float64)
        sizes.add(flat.shape[1])
        whole = whole and action.dtype.kind in "iu"
        low, high = np.minimum(low, flat.min(0, initial=np.inf)), np.maximum(high, flat.max(0, initial=-np.inf))
    if len(sizes) != 1 or (whole and sizes != {1}):
        raise UserError(f"{where}: actions have {sorted(sizes)} whole numbers each: need one choice, or real numbers")
    if not np.isfinite([low, high]).all():
        raise UserError(f"{where}: an action is not finite, or there is none; clean the recording")
    low, high = np.atleast_1d(low), np.atleast_1d(high)
    if whole:
        start = int(min(0, low[0]))
        code = Discrete(int(high[0]) - start + 1, start)
        return code, f"actions: {code.count} choices, as many as occur"
    stored = [np.asarray(space.get(name, np.nan), np.float64).reshape(-1) for name in ("low", "high")]
    if all(len(bound) == len(low) and np.isfinite(bound).all() for bound in stored):
        text, bounds = "the bounds of their space", (stored[0], stored[1])
    elif max(np.abs(low).max(), np.abs(high).max()) <= 1:
        text, bounds = "", (-np.ones(len(low)), np.ones(len(low)))
    else:
        text, bounds = "the smallest and largest that occur", (low, high)
    scaled = f"scaled to -1 .. 1 from {text}" if text else "within -1 .. 1 as they are"
    return Scaled(*bounds), f"actions: {len(low)} real numbers, {scaled}"
