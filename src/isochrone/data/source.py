"""Recordings: which format a path is in, and a replay filled from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.paths import check_regular
from isochrone.core.protocols import Format
from isochrone.core.types import Spec
from isochrone.data.episode import check_spec, checked, summarize
from isochrone.data.replay import ReplayBuffer, row_bytes


def open_format(path: Path | str) -> Format:
    """The registered format that detects `path`, a file or a folder; UserError where none does, or more than one.

    For a path that does not exist it is the format that a new recording of this name would have.
    """
    path = Path(path)
    check_regular(path, "recording")
    formats: dict[str, Format] = {name: make() for name, make in registry.components("format", type).items()}
    matches = [name for name, form in formats.items() if form.detect(path)]
    if not matches:
        missing = "" if path.exists() else " (and there is no such file or folder)"
        raise UserError(f"{path}: none of the formats {', '.join(formats)} recognises it{missing}")
    if len(matches) > 1:
        raise UserError(f"{path}: more than one format recognises it: {', '.join(matches)}; rename it")
    return formats[matches[0]]


def describe(path: Path | str) -> dict[str, Any]:
    """The metadata of the recording, as JSON values, without reading the rows where its format allows that."""
    path, form = Path(path), open_format(path)
    spec, lengths = form.spec(path), form.lengths(path)
    if lengths is None:
        return validate(path)
    return {
        "episodes": len(lengths),
        "rows": int(lengths.sum()),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "obs": {name: list(shape) for name, shape in spec.obs.items()},
        "action": {"kind": spec.action.kind, "size": spec.action.size, "names": list(spec.action.names)},
        "bytes": size_of(path),
    }


def validate(path: Path | str) -> dict[str, Any]:
    """Read and check everything once; what is in the recording, as JSON values.

    Raises:
        UserError: it cannot be trained on; the message names the problem, the episode and the row.
    """
    path, form = Path(path), open_format(path)
    spec = check_spec(form.spec(path), str(path))
    return summarize(spec, checked(form.read(path), spec, str(path))) | {"bytes": size_of(path)}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def load_into(
    path: Path | str,
    folder: Path | str | None = None,
    num_envs: int | None = None,
    budget_mb: float = math.inf,
) -> ReplayBuffer:
    """A replay that holds every episode of the recording `path`, just large enough.

    Whole episodes are assigned to `num_envs` histories (None: see `histories`) of about equal length, so that a split
    by environments is a split by episodes. The recording is streamed (if its format knows the lengths beforehand) and
    every episode checked; a bad one is a UserError, and so is a replay of more than `budget_mb`. With `folder` the rows
    are memory-mapped there.
    """
    path, form = Path(path), open_format(path)
    spec, lengths = check_spec(form.spec(path), str(path)), form.lengths(path)  # (E)
    episodes = form.read(path) if lengths is not None else list(form.read(path))
    if lengths is None:
        lengths = np.array([len(episode) for episode in episodes], np.int64)
    check_lengths(path, lengths)
    count = min(num_envs, len(lengths)) if num_envs else histories(lengths)
    env_of, filled = assign(lengths, count)
    check_size(path, spec, filled, budget_mb)
    replay = ReplayBuffer(spec, count, int(max(filled.max(), 2)), folder)
    if len(replay):
        raise UserError(f"{replay.folder} already holds {len(replay)} rows; load the recording into an empty folder")
    for number, (env, episode) in enumerate(zip(env_of.tolist(), episodes, strict=True)):
        replay.extend(env, episode, f"{path}: episode {number}")
    replay.flush()
    return replay


def check_lengths(path: Path | str, lengths: Int64[np.ndarray, "E"]) -> None:
    """UserError where there are no episodes, or one is too short for a transition."""
    if not len(lengths):
        raise UserError(f"{path}: it holds no episodes; record at least one")
    short = np.flatnonzero(lengths < 2)
    if len(short):
        raise UserError(
            f"{path}: episode {short[0]} has length {lengths[short[0]]}: an episode needs at least 2 rows to hold a "
            "transition; leave it out"
        )


def check_size(path: Path | str, spec: Spec, filled: Int64[np.ndarray, "num_envs"], budget_mb: float) -> None:
    """UserError where the replay of a recording, as large in every environment as in the fullest, is too large."""
    size = len(filled) * int(filled.max()) * row_bytes(spec) / 1e6
    if size > budget_mb:
        raise UserError(
            f"{path} ({size_of(Path(path)) / 1e6:.3g} MB) would take {size:.0f} MB as a replay of {len(filled)} x "
            f"{filled.max()} rows, more than data.budget_mb = {budget_mb:g}: raise the budget, or use fewer episodes"
        )


def histories(lengths: Int64[np.ndarray, "E"], most: int = 32) -> int:
    """In how many histories a replay holds episodes of these lengths: up to `most`, at least 2 of several episodes.

    All histories have the rows of the fullest, so there are fewer where one episode is longer than an equal share.
    """
    return min(len(lengths), most, max(2, int(lengths.sum() // max(lengths.max(), 1))))


def assign(lengths: np.ndarray, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
    """(environment of each episode (E), rows of each environment): the longest first, to the one with fewest rows."""
    env_of, filled = np.zeros(len(lengths), np.int64), np.zeros(num_envs, np.int64)
    for episode in np.argsort(-lengths, kind="stable"):
        env = int(filled.argmin())
        env_of[episode] = env
        filled[env] += lengths[episode]
    return env_of, filled
