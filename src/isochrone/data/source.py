"""Recordings by file name: which format reads this file, and a replay filled from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.data.replay import Replay


def open_format(path: Path | str) -> Any:
    """An instance of the registered format whose suffixes include that of `path` (.h5, .hdf5, ...)."""
    suffix = Path(path).suffix.lower()
    known: list[str] = []
    for name in registry.names("format"):
        kind = registry.get("format", name)
        known += kind.suffixes
        if suffix in kind.suffixes:
            return kind()
    raise UserError(f"{path}: no format reads files ending in '{suffix}'; known: {', '.join(sorted(known))}")


def load_into(path: Path | str, folder: Path | str | None = None, lanes: int | None = None) -> Replay:
    """A replay that holds every episode of the recording `path`, just large enough.

    Episodes are dealt to lanes whole, longest first into the emptiest lane, so that lanes come out even and a split by
    lanes is a split by episodes. `lanes=None` takes up to 32. The file is streamed and every episode
    checked on its way; a bad one is a UserError. With `folder` the rows are memory-mapped there.
    """
    form = open_format(path)
    lengths = form.lengths(path)  # (E)
    count = min(lanes or 32, len(lengths))
    lane_of, filled = deal(lengths, count)
    spec, episodes = form.read(path)
    replay = Replay(spec, count, int(max(filled.max(), 2)), folder)
    if len(replay):
        raise UserError(f"{replay.folder} already holds {len(replay)} rows; load the recording into an empty folder")
    for lane, episode in zip(lane_of.tolist(), episodes, strict=True):
        replay.extend(lane, episode)
    replay.flush()
    return replay


def deal(lengths: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """(lane of each episode (E), rows in each lane (lanes)): longest first into the emptiest lane."""
    lane_of, filled = np.zeros(len(lengths), np.int64), np.zeros(lanes, np.int64)
    for episode in np.argsort(-lengths, kind="stable"):
        lane = int(filled.argmin())
        lane_of[episode] = lane
        filled[lane] += lengths[episode]
    return lane_of, filled
