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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import h5py
import numpy as np
from jaxtyping import Int64

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.files import replacement
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec
from isochrone.data import hdf5_gate
from isochrone.data.episode import Episode, check_spec, checked, fields_of
from isochrone.data.layouts import LAYOUTS, Node, contents

FORMAT, VERSION, SUFFIXES = "isochrone-episodes", 1, (".h5", ".hdf5")
LARGEST_EPISODE = 2 * 10**9
"""Bytes of one episode in memory."""


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

    def __init__(self, config: Hdf5Config | None = None) -> None:
        self.config = config or Hdf5Config()

    def detect(self, path: Path) -> bool:
        """By the suffix; a folder is none."""
        return path.suffix.lower() in SUFFIXES and not path.is_dir()

    def write(self, path: Path | str, episodes: Iterable[Episode], spec: Spec) -> int:
        """Write checked episodes; returns how many. An error leaves what was there before."""
        try:
            with replacement(Path(path)) as aside:
                # The newer layout has a checksum in each of its own tables; fletcher32 adds one to every chunk of rows.
                with h5py.File(aside, "w", libver=("v110", "v110")) as file:
                    lengths = self._fill(file, path, episodes, spec)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error}); choose another folder or free some space") from error
        return len(lengths)

    def _fill(self, file: h5py.File, path: Path | str, episodes: Iterable[Episode], spec: Spec) -> list[int]:
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
                    fletcher32=True,
                )
        lengths: list[int] = []
        for episode in checked(episodes, spec, str(path)):
            arrays = episode.columns()
            begin = sum(lengths)
            for name, data in columns.items():
                data.resize(begin + len(episode), axis=0)
                data[begin:] = arrays[name]
            lengths.append(len(episode))
        if not lengths:
            raise UserError(f"{path}: there are no episodes to write; record at least one whole episode")
        file.create_dataset("lengths", data=np.array(lengths, np.int64), chunks=(len(lengths),), fletcher32=True)
        file.attrs.update({"format": FORMAT, "version": VERSION, "action_kind": spec.action.kind})
        if spec.action.names:
            file.attrs["action_names"] = list(spec.action.names)
        if spec.action.noop is not None:
            file.attrs["action_noop"] = spec.action.noop
        if spec.action.inverse is not None:
            file.attrs["action_inverse"] = list(spec.action.inverse)
        return lengths

    def spec(self, path: Path | str) -> Spec:
        """Observations and actions of the recording."""
        with hdf5_gate.opened(path) as file:
            return _layout(file, path)[0]

    def lengths(self, path: Path | str) -> Int64[np.ndarray, "E"]:
        """Rows of each episode."""
        with hdf5_gate.opened(path) as file:
            return _layout(file, path)[1]

    def read(self, path: Path | str) -> Iterator[Episode]:
        """The episodes, one by one."""
        with hdf5_gate.opened(path) as file:
            spec, lengths = _layout(file, path)
            begin = 0
            for length in lengths.tolist():
                yield _episode(file, path, spec, begin, length)
                begin += length


def _episode(file: h5py.File, path: Path | str, spec: Spec, begin: int, length: int) -> Episode:
    columns = {name: _data(file, name, path)[begin : begin + length] for name in _columns(spec)}
    columns["first"], columns["last"] = np.zeros((2, length), np.bool_)
    columns["first"][:1] = columns["last"][-1:] = True
    return Episode.of(columns)


def _columns(spec: Spec) -> list[str]:
    return [name for name in fields_of(spec) if name not in ("first", "last")]


def _data(file: h5py.File, name: str, path: Path | str) -> h5py.Dataset:
    data = hdf5_gate.find(file, name, path)
    if not isinstance(data, h5py.Dataset):
        have = ", ".join(hdf5_gate.members(file)) or "nothing"
        raise UserError(f"{path}: dataset '{name}' is missing; the file holds {have}")
    return data


def _layout(file: h5py.File, path: Path | str) -> tuple[Spec, np.ndarray]:
    """(spec, lengths), without reading any row."""
    form, version = (hdf5_gate.attribute(file, name, path) for name in ("format", "version"))
    if form != FORMAT or version != VERSION:
        other = next((name for name, layout in LAYOUTS.items() if layout.detect(cast(Node, file))), None)
        if other is not None:
            raise UserError(
                f"{path} is in the layout of {other} ({', '.join(contents(cast(Node, file), 6))}): turn it into ours "
                f"by isochrone data convert {path} --out my.h5"
            )
        raise UserError(
            f"{path}: attribute format = {form!r}, version = {version};"
            f" must be {FORMAT!r} and {VERSION} (write it with 'isochrone data', or set both)"
        )
    group = hdf5_gate.find(file, "obs", path)
    if not isinstance(group, h5py.Group) or not len(group):
        raise UserError(f"{path}: group 'obs' is missing or empty; put the frames in 'obs/image', uint8 (N, C, Y, X)")
    obs = {name: tuple(_data(file, f"obs/{name}", path).shape[1:]) for name in hdf5_gate.members(group)}
    spec = check_spec(Spec(obs, _action(file, path)), str(path))
    data, rows = _data(file, "lengths", path), len(_data(file, "action", path))
    if data.dtype.kind not in "iu" or data.ndim != 1:
        raise UserError(f"{path}: lengths is {data.dtype} {data.shape}, must be whole numbers of shape (E,)")
    lengths = data[:]
    if not len(lengths):
        raise UserError(f"{path}: it holds no episodes; record at least one")
    if lengths.min() < 0 or lengths.max() > rows:
        raise UserError(f"{path}: lengths go from {lengths.min()} to {lengths.max()}, but there are {rows} rows")
    lengths = lengths.astype(np.int64)
    if lengths.sum() != rows:
        raise UserError(f"{path}: lengths sum to {lengths.sum()}, but there are {rows} rows; make them equal")
    longest = int(lengths.max()) * sum(field.bytes for field in fields_of(spec).values())
    if longest > LARGEST_EPISODE:
        raise UserError(
            f"{path}: episode {lengths.argmax()} has {lengths.max()} rows, {longest / 1e6:.0f} MB, and at most "
            f"{LARGEST_EPISODE / 1e6:.0f} MB are read at once: cut it into shorter episodes"
        )
    return spec, lengths


def _action(file: h5py.File, path: Path | str) -> ActionSpec:
    kind, shape = hdf5_gate.attribute(file, "action_kind", path), _data(file, "action", path).shape
    if kind not in ("discrete", "continuous"):
        raise UserError(f"{path}: attribute action_kind = {kind!r}; must be 'discrete' or 'continuous'")
    if len(shape) != 2:
        raise UserError(
            f"{path}: action has shape {shape}, must be (N, A): one-hot rows if discrete, else values in [-1, 1]"
        )
    names = hdf5_gate.attribute(file, "action_names", path) or []
    noop, inverse = (hdf5_gate.attribute(file, f"action_{name}", path) for name in ("noop", "inverse"))
    if not isinstance(names, list) or (names and len(names) != shape[1]):
        raise UserError(f"{path}: attribute action_names = {names!r}; must be {shape[1]} texts, one for each action")
    if noop is not None and not isinstance(noop, int):
        raise UserError(f"{path}: attribute action_noop = {noop!r}; must be a whole number")
    if inverse is not None and not (isinstance(inverse, list) and all(isinstance(item, int) for item in inverse)):
        raise UserError(f"{path}: attribute action_inverse = {inverse!r}; must be made of whole numbers")
    return ActionSpec(
        kind, int(shape[1]), tuple(str(name) for name in names), noop, None if inverse is None else tuple(inverse)
    )
