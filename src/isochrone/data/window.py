"""Windows beyond random ones: a held-out split by lanes, and every window in order for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from isochrone.core.errors import UserError
from isochrone.core.types import Batch
from isochrone.data.replay import Replay


def split_lanes(lanes: int, held: float = 0.1, salt: int = 0) -> tuple[list[int], list[int]]:
    """(training lanes, held-out lanes), disjoint. A lane's side depends only on its number and `salt`, by hash order.

    Lanes never share rows, so no held-out window can appear in training. At least one lane lands on each side.
    """
    if not 0 < held < 1:
        raise UserError(f"held-out share {held} must lie between 0 and 1")
    if lanes < 2:
        raise UserError(
            f"a held-out split needs at least 2 lanes, this replay has {lanes}: record with more environments"
        )
    order = sorted(range(lanes), key=lambda lane: hashlib.blake2b(f"{salt}:{lane}".encode(), digest_size=8).digest())
    count = min(max(round(held * lanes), 1), lanes - 1)
    return sorted(order[count:]), sorted(order[:count])


def all_starts(
    replay: Replay, length: int, stride: int = 1, lanes: Sequence[int] | None = None, within: bool = False
) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
    """(lane, start) of every window in order; `within` keeps those that lie inside one episode."""
    found_lanes, found_starts = [], []
    for lane, count in enumerate(replay.starts(length, lanes).tolist()):
        start = np.arange(0, count, stride)  # (N)
        if within and count:
            cut = replay.column(lane, "last")[:-1] | replay.column(lane, "first")[1:]  # (stored-1) break after row t
            breaks = np.concatenate([[0], np.cumsum(cut)])  # (stored)
            start = start[breaks[start + length - 1] == breaks[start]]
        found_lanes.append(np.full(len(start), lane, np.int64))
        found_starts.append(start.astype(np.int64))
    return np.concatenate(found_lanes), np.concatenate(found_starts)


def windows(
    replay: Replay,
    length: int,
    batch: int = 64,
    stride: int | None = None,
    lanes: Sequence[int] | None = None,
    within: bool = False,
) -> Iterator[Batch]:
    """Every window in order, at most `batch` at a time, `stride` rows apart (None: `length`, no row comes twice)."""
    lane, start = all_starts(replay, length, length if stride is None else stride, lanes, within)
    if not len(lane):
        raise UserError(f"no window of {length} rows to evaluate on: record longer episodes or shorten the window")
    for i in range(0, len(lane), batch):
        yield replay.take(lane[i : i + batch].tolist(), start[i : i + batch].tolist(), length)
