"""Recordings of other libraries turned into ours: rewards, axes and actions as `core.types` has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.images import SMALLEST_PICTURE, channel_axis, channels_first, is_picture, shrink
from isochrone.core.types import Spec
from isochrone.data.actions import Discrete, Scaled, action_code
from isochrone.data.episode import Episode, checked
from isochrone.data.layouts import LAYOUTS, Recorded, layout_of, opened, space_of
from isochrone.data.source import open_format

PREFERRED = ("pixels", "image", "agentview_image", "rgb")
LARGEST = 4096
"""Pixels per side."""
BATCH = 64
"""Frames that are resized at once."""


@dataclass
class Notes:
    """What was done and what was left out, one line each."""

    lines: list[str] = field(default_factory=list[str])


def convert(
    source: Path,
    out: Path,
    layout: str | None = None,
    key: str | None = None,
    size: int | None = None,
    cut: int | None = None,
) -> list[str]:
    """Write the recording `source` of another library, or of any registered format, to `out`.

    Args:
        layout: one of `LAYOUTS` (None: detected).
        key: the observation that becomes 'image' (None: a picture with 3 channels).
        size: pixels per side of the pictures (None: as they are).
        cut: most rows of an episode; a longer one becomes several that share the row where they were cut.

    Returns:
        What was done and what was left out, as sentences.

    Raises:
        UserError: `source` cannot be read, or holds what cannot be trained on; nothing is written then.
    """
    if cut is not None and cut < 2:
        raise UserError(f"cut = {cut}: an episode needs at least 2 rows")
    if size is not None and not 1 <= size <= LARGEST:
        raise UserError(f"size = {size}: must be 1 .. {LARGEST} pixels")
    target = open_format(out)
    if out.exists():
        raise UserError(f"{out} exists already: choose another name, or delete it first")
    notes = Notes()
    if layout is None and _is_ours(source):
        form = open_format(source)
        spec, episodes = form.spec(source), form.read(source)
        count = _write(target, out, checked(episodes, spec, str(source)), spec, size, cut, notes)
    else:
        with opened(source) as (file, about):
            name = layout_of(source, file, layout)
            read = Conversion(source, lambda: LAYOUTS[name].episodes(file, about), space_of(about, "action_space"), key)
            notes.lines.append(f"layout {name}")
            spec = read.plan(notes)
            count = _write(target, out, read.episodes(spec, notes), spec, size, cut, notes)
    return [*notes.lines, f"{count} episodes written to {out}"]


def _is_ours(path: Path) -> bool:
    """Does a registered format read it? Of a file, which is detected by its suffix, only if it can."""
    try:
        form = open_format(path)
        if not path.is_dir():
            form.spec(path)
    except UserError:
        return False
    return True


def _write(
    target: Any, out: Path, episodes: Iterator[Episode], spec: Spec, size: int | None, cut: int | None, notes: Notes
) -> int:
    if size is not None and "image" in spec.obs:
        c, y, x = spec.image
        notes.lines.append(f"image resized from {y}x{x} to {size}x{size}" + (", not to scale" * (y != x)))
        spec = replace(spec, obs={**spec.obs, "image": (c, size, size)})
        episodes = (_resized(episode, size) for episode in episodes)
    if cut is not None:
        notes.lines.append(f"episodes cut into pieces of at most {cut} rows")
        episodes = (piece for episode in episodes for piece in pieces(episode, cut))
    return target.write(out, episodes, spec)


def pieces(episode: Episode, rows: int) -> Iterator[Episode]:
    """The episode in pieces of at most `rows` rows; where it is cut, a row ends one piece and begins the next."""
    begin = 0
    while begin < len(episode) - 1:
        piece = Episode.of({name: array[begin : begin + rows].copy() for name, array in episode.columns().items()})
        piece.first[:1], piece.last[-1:], piece.reward[:1] = True, True, 0
        yield piece
        begin += rows - 1


def _resized(episode: Episode, size: int) -> Episode:
    frames = torch.from_numpy(np.ascontiguousarray(episode.obs["image"]))  # (T, C, Y, X)
    small = torch.cat([shrink(frames[i : i + BATCH], size) for i in range(0, len(frames), BATCH)])
    return replace(episode, obs={**episode.obs, "image": small.numpy()})


# --- episodes ---------------------------------------------------------------------------------------------------------


class Conversion:
    """The episodes of another library as ours. `recorded` begins to read from the first episode each time."""

    def __init__(self, where: Path, recorded: Any, space: Mapping[str, Any], key: str | None) -> None:
        self.where, self.recorded, self.space, self.key = where, recorded, space, key
        self.names: dict[str, str] = {}  # ours -> theirs
        self.code: Discrete | Scaled

    def plan(self, notes: Notes) -> Spec:
        """Choose what becomes what, from the first episode and all actions; tells it in `notes`."""
        first: Recorded | None = next(iter(self.recorded()), None)
        if first is None:
            raise UserError(f"{self.where}: it holds no episodes")
        pictures = [name for name, rows in first.obs.items() if rows.dtype == np.uint8 and is_picture(rows.shape[1:])]
        chosen = self._choose(pictures, first)
        shapes: dict[str, tuple[int, ...]] = {}
        if chosen is not None:
            shapes["image"] = channels_first(np.empty(first.obs[chosen].shape[1:], np.uint8)).shape
            self.names["image"] = chosen
            notes.lines.append(f"image from '{chosen}' {first.obs[chosen].shape[1:]}, as (C, Y, X) {shapes['image']}")
        else:
            notes.lines.append("no picture: only models that take vectors can be trained")
        for name, rows in first.obs.items():
            if rows.dtype.kind in "fiub" and len(rows.shape) <= 2 and 0 not in rows.shape:
                ours = re.sub(r"\W", "_", name) or "state"
                ours = f"{ours}_vector" if ours in ("image", "first") else ours
                shapes[ours], self.names[ours] = rows.shape[1:] or (1,), name
        rest = [name or "observations" for name in first.obs if name not in self.names.values()]
        if rest:
            notes.lines.append(f"left out: {', '.join(rest)}" + (" (--key chooses a picture)" if pictures else ""))
        if not shapes:
            raise UserError(f"{self.where}: no observation can be used; it holds {', '.join(first.obs)}")
        self._tell_rewards(first, notes)
        self.code, text = action_code(self.where, (r.action.read() for r in self.recorded()), self.space)
        notes.lines.append(text)
        return Spec(shapes, self.code.spec)

    def _choose(self, pictures: list[str], first: Recorded) -> str | None:
        if self.key is not None:
            if self.key not in pictures:
                raise UserError(f"{self.where}: no picture called '{self.key}'{did_you_mean(self.key, pictures)}")
            return self.key

        shapes = {name: channels_first(np.empty(first.obs[name].shape[1:], np.uint8)).shape for name in pictures}

        def rank(name: str) -> tuple[bool, int]:
            last = name.rpartition("/")[2]
            return shapes[name][0] != 3, PREFERRED.index(last) if last in PREFERRED else len(PREFERRED)

        large = [name for name in pictures if min(shapes[name][1:]) >= SMALLEST_PICTURE]
        return min(large, key=rank, default=None)

    def _tell_rewards(self, first: Recorded, notes: Notes) -> None:
        if first.reward is None:
            notes.lines.append("no rewards: all are 0")
        elif first.on_arrival:
            notes.lines.append("rewards lie on the row of their arrival already")
        else:
            known = len(first.action) < len(next(iter(first.obs.values())))
            lost = "" if known else "; that of the last action of each episode is left out: its arrival is not recorded"
            notes.lines.append(f"rewards moved down to the row of their arrival{lost}")

    def episodes(self, spec: Spec, notes: Notes) -> Iterator[Episode]:
        """Every episode as ours; one without a transition is left out."""
        short = 0
        for number, recorded in enumerate(self.recorded()):
            rows = len(next(iter(recorded.obs.values())))
            if rows < 2:
                short += 1
                continue
            yield self._episode(recorded, rows, spec, notes, f"{self.where}: episode {number}")
        if short:
            notes.lines.append(f"{short} episodes of one row left out")

    def _episode(self, recorded: Recorded, rows: int, spec: Spec, notes: Notes, where: str) -> Episode:
        obs: dict[str, np.ndarray] = {}
        for ours, theirs in self.names.items():
            if theirs not in recorded.obs or len(recorded.obs[theirs]) != rows:
                raise UserError(f"{where}: '{theirs}' is missing or has another number of rows")
            array = recorded.obs[theirs].read()
            if ours == "image":
                obs[ours] = _channels_first(array)
            else:
                obs[ours] = array.reshape(rows, *spec.obs[ours]).astype(np.float32)
        if not rows - 1 <= len(recorded.action) <= rows:
            raise UserError(f"{where}: {len(recorded.action)} actions for {rows} observations")
        taken = self.code.encode(recorded.action.read())
        action = np.concatenate([taken, spec.action.idle((1,)).numpy()]) if len(taken) < rows else taken
        first, last = np.arange(rows) == 0, np.arange(rows) == rows - 1
        return Episode(obs, action, _rewards(recorded, rows), first, last, last & recorded.terminal)


def _channels_first(frames: np.ndarray) -> np.ndarray:
    """Pictures (T, ...) -> (T, C, Y, X)."""
    if frames.ndim == 4 and channel_axis(frames.shape[1:]) == -1:
        return np.moveaxis(frames, -1, 1)
    return frames if frames.ndim == 4 else np.stack([channels_first(frame) for frame in frames])


def _rewards(recorded: Recorded, rows: int) -> Float32[np.ndarray, "T"]:
    """Rewards on the row of their arrival; 0 on the first."""
    reward = np.zeros(rows, np.float32)
    if recorded.reward is not None:
        given = recorded.reward.read().reshape(len(recorded.reward)).astype(np.float32)
        reward[1:] = given[1:] if recorded.on_arrival else given[: rows - 1]
    return reward
