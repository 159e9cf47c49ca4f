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


def load_into(path: Path | str, folder: Path | str | None = None, num_envs: int | None = None) -> Replay:
    """A replay that holds every episode of the recording `path`, just large enough.

    Whole episodes are assigned to `num_envs` histories (None: up to 32) of about equal length, so that a split by
    environments is a split by episodes. The recording is streamed and every episode checked; a bad one is a UserError.
    With `folder` the rows are memory-mapped there.
    """
    form = open_format(path)
    lengths = form.lengths(path)  # (E)
    count = min(num_envs or 32, len(lengths))
    env_of, filled = assign(lengths, count)
    spec, episodes = form.read(path)
    replay = Replay(spec, count, int(max(filled.max(), 2)), folder)
    if len(replay):
        raise UserError(f"{replay.folder} already holds {len(replay)} rows; load the recording into an empty folder")
    for env, episode in zip(env_of.tolist(), episodes, strict=True):
        replay.extend(env, episode)
    replay.flush()
    return replay


def assign(lengths: np.ndarray, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
    """(environment of each episode (E), rows of each environment): the longest first, to the one with fewest rows."""
    env_of, filled = np.zeros(len(lengths), np.int64), np.zeros(num_envs, np.int64)
    for episode in np.argsort(-lengths, kind="stable"):
        env = int(filled.argmin())
        env_of[episode] = env
        filled[env] += lengths[episode]
    return env_of, filled
