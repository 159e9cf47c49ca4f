"""HDF5 episode files: all episodes end to end, one dataset per column, episode lengths beside them.

    obs/<name>   (N, ...)  'image' uint8 (C, Y, X), everything else float32
    action       (N, A)    float32, one-hot or in [-1, 1]; row t holds the action taken at obs[t]
    reward       (N)       float32, received on arriving at row t
    terminal     (N)       bool, only on an episode's final row
    lengths      (E)       int64, rows of each episode; they sum to N

Attributes of the file: format 'isochrone-episodes', version 1, and the action space: action_kind, and optionally
action_names, action_noop, action_inverse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from jaxtyping import Int64

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec
from isochrone.data.episode import Episode, check, fields_of, obs_dtype

FORMAT, VERSION = "isochrone-episodes", 1


@dataclass(frozen=True)
class Hdf5Config:
    """How files are written; reading needs none of it."""

    name: ClassVar[str] = "hdf5"
    compress: int = option(1, "gzip level, 0 for none", ge=0, le=9)
    chunk: int = option(16, "rows per chunk: about one training window", ge=1)


@register("format", "hdf5")
class Hdf5:
    """Write, read and validate HDF5 episode files; only one episode is in memory at a time."""

    Config = Hdf5Config
    suffixes = (".h5", ".hdf5")

    def __init__(self, config: Hdf5Config | None = None) -> None:
        self.config = config or Hdf5Config()

    def write(self, path: Path | str, episodes: Iterable[Episode], spec: Spec) -> int:
        """Write checked episodes aside, fsync, rename; returns how many. An error leaves no file behind."""
        path = Path(path)
        aside = path.with_name(path.name + ".part")
        try:
            with h5py.File(aside, "w") as file:
                lengths = self._fill(file, episodes, spec)
            with open(aside, "rb") as done:
                os.fsync(done.fileno())
            os.replace(aside, path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error}); choose another folder or free some space") from error
        finally:
            aside.unlink(missing_ok=True)
        return len(lengths)

    def _fill(self, file: h5py.File, episodes: Iterable[Episode], spec: Spec) -> list[int]:
        columns = {}
        for name, field in fields_of(spec).items():
            if name not in ("first", "last"):  # they follow from the lengths
                columns[name] = file.create_dataset(
                    name,
                    (0, *field.shape),
                    field.dtype,
                    maxshape=(None, *field.shape),
                    chunks=(self.config.chunk if field.bytes > 256 else 1024, *field.shape),
                    compression="gzip" if self.config.compress else None,
                    compression_opts=self.config.compress or None,
                )
        lengths: list[int] = []
        for number, episode in enumerate(episodes):
            arrays = check(episode, spec, f"episode {number}").columns()
            begin = sum(lengths)
            for name, data in columns.items():
                data.resize(begin + len(episode), axis=0)
                data[begin:] = arrays[name]
            lengths.append(len(episode))
        if not lengths:
            raise UserError(f"{file.filename}: there are no episodes to write; record at least one whole episode")
        file.create_dataset("lengths", data=np.array(lengths, np.int64))
        file.attrs.update({"format": FORMAT, "version": VERSION, "action_kind": spec.action.kind})
        if spec.action.names:
            file.attrs["action_names"] = list(spec.action.names)
        if spec.action.noop is not None:
            file.attrs["action_noop"] = spec.action.noop
        if spec.action.inverse is not None:
            file.attrs["action_inverse"] = list(spec.action.inverse)
        return lengths

    def read(self, path: Path | str) -> tuple[Spec, Iterator[Episode]]:
        """(spec, checked episodes one by one)."""
        with _open(path) as file:
            spec, _ = _layout(file, path)
        return spec, _episodes(path)

    def lengths(self, path: Path | str) -> Int64[np.ndarray, "E"]:
        """Rows of each episode."""
        with _open(path) as file:
            return _layout(file, path)[1]

    def validate(self, path: Path | str) -> dict[str, Any]:
        """Read everything once; a report of what is in it, or the UserError that says what is wrong and where."""
        with _open(path) as file:
            spec, lengths = _layout(file, path)
        used, terminal, reward = np.zeros(spec.action.size), 0, [np.inf, -np.inf]
        for episode in _episodes(path):
            used += np.abs(episode.action).sum(0)
            terminal += int(episode.terminal[-1])
            reward = [min(reward[0], float(episode.reward.min())), max(reward[1], float(episode.reward.max()))]
        return {
            "episodes": len(lengths),
            "rows": int(lengths.sum()),
            "shortest": int(lengths.min()),
            "longest": int(lengths.max()),
            "terminal": terminal,
            "obs": {name: list(shape) for name, shape in spec.obs.items()},
            "action": {"kind": spec.action.kind, "size": spec.action.size, "names": list(spec.action.names)},
            "action_use": (used / lengths.sum()).tolist(),
            "reward": reward,
            "bytes": Path(path).stat().st_size,
        }


def _open(path: Path | str) -> h5py.File:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give the path of a recording, e.g. --data my.h5")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is truncated or not an HDF5 file ({error}); copy or record it again") from error


def _episodes(path: Path | str) -> Iterator[Episode]:
    with _open(path) as file:
        spec, lengths = _layout(file, path)
        begin = 0
        for number, length in enumerate(lengths.tolist()):
            yield _episode(file, path, spec, begin, length, f"{path}: episode {number}")
            begin += length


def _episode(file: h5py.File, path: Path | str, spec: Spec, begin: int, length: int, where: str) -> Episode:
    try:
        columns = {name: _data(file, name, path)[begin : begin + length] for name in _columns(spec)}
    except OSError as error:
        raise UserError(f"{path} is truncated or damaged ({error}); copy or record it again") from error
    columns["first"], columns["last"] = np.zeros((2, length), np.bool_)
    columns["first"][:1] = columns["last"][-1:] = True
    return check(Episode.of(columns), spec, where)


def _columns(spec: Spec) -> list[str]:
    return [name for name in fields_of(spec) if name not in ("first", "last")]


def _data(file: h5py.File, name: str, path: Path | str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        have: list[str] = []
        file.visit(have.append)
        raise UserError(f"{path}: dataset '{name}' is missing; the file holds {', '.join(have) or 'nothing'}")
    return found


def _layout(file: h5py.File, path: Path | str) -> tuple[Spec, np.ndarray]:
    """(spec, lengths), with every shape and dtype checked before any row is read."""
    if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
        raise UserError(
            f"{path}: attribute format = {file.attrs.get('format')!r}, version = {file.attrs.get('version')};"
            f" must be {FORMAT!r} and {VERSION} (write it with 'isochrone data', or set both)"
        )
    group = file.get("obs")
    if not isinstance(group, h5py.Group) or not len(group):
        raise UserError(f"{path}: group 'obs' is missing or empty; put the frames in 'obs/image', uint8 (N, C, Y, X)")
    obs = {str(name): tuple(_data(file, f"obs/{name}", path).shape[1:]) for name in group}
    spec = Spec(obs, _action(file, path))
    if "image" in obs and len(obs["image"]) != 3:
        raise UserError(f"{path}: obs/image has rows of shape {obs['image']}; must be (C, Y, X)")
    if "image" in obs and obs["image"][2] in (1, 3) and obs["image"][0] not in (1, 3):
        raise UserError(
            f"{path}: obs/image has rows of shape {obs['image']}, which look like (Y, X, C); transpose to (C, Y, X)"
        )
    for name in _columns(spec):
        data, field = _data(file, name, path), fields_of(spec)[name]
        if data.dtype != (obs_dtype(name[4:]) if name.startswith("obs/") else field.dtype):
            raise UserError(f"{path}: {name} is {data.dtype}, must be {field.dtype}; convert it")
        if data.shape[1:] != field.shape:
            raise UserError(f"{path}: {name} has shape {data.shape}, must be {('N', *field.shape)}; reshape it")
    return spec, _lengths(file, path, {name: len(_data(file, name, path)) for name in _columns(spec)})


def _lengths(file: h5py.File, path: Path | str, rows: dict[str, int]) -> np.ndarray:
    data = _data(file, "lengths", path)
    if data.dtype.kind not in "iu" or data.ndim != 1:
        raise UserError(f"{path}: lengths is {data.dtype} {data.shape}, must be whole numbers of shape (E,)")
    lengths = data[:].astype(np.int64)
    if len(set(rows.values())) > 1:
        raise UserError(f"{path}: datasets have unequal lengths {rows}; every one needs one row per observation")
    if not len(lengths):
        raise UserError(f"{path}: it holds no episodes; record at least one")
    if (lengths < 2).any():
        at = int(np.flatnonzero(lengths < 2)[0])
        raise UserError(
            f"{path}: episode {at} has length {lengths[at]}:"
            " an episode needs at least 2 rows to hold a transition; leave it out"
        )
    if lengths.sum() != rows["action"]:
        raise UserError(
            f"{path}: lengths sum to {lengths.sum()} but the datasets have unequal length {rows['action']};"
            " make them equal"
        )
    return lengths


def _action(file: h5py.File, path: Path | str) -> ActionSpec:
    kind, shape = file.attrs.get("action_kind"), _data(file, "action", path).shape
    if kind not in ("discrete", "continuous"):
        raise UserError(f"{path}: attribute action_kind = {kind!r}; must be 'discrete' or 'continuous'")
    if len(shape) != 2:
        raise UserError(
            f"{path}: action has shape {shape}, must be (N, A): one-hot rows if discrete, else values in [-1, 1]"
        )
    names = tuple(str(name) for name in file.attrs.get("action_names", ()))
    noop, inverse = file.attrs.get("action_noop"), file.attrs.get("action_inverse")
    return ActionSpec(
        kind,
        int(shape[1]),
        names,
        None if noop is None else int(noop),
        None if inverse is None else tuple(int(i) for i in inverse),
    )
