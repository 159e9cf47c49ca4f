"""Storage of the replay: .npy files in a folder, or plain RAM."""

from __future__ import annotations

import json
import os
import tokenize
import zlib
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np

from isochrone.core import gate
from isochrone.core.errors import UserError
from isochrone.core.files import save_json, writing
from isochrone.core.types import Spec
from isochrone.data.episode import StoredSpec, fields_of, restore_spec, spec_to_dict

VERSION = 3
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]


class StoredReplay(gate.Strict):
    """replay.json: what the arrays beside it are."""

    version: int
    spec: StoredSpec
    num_envs: Annotated[int, msgspec.Meta(ge=1, le=2**24)]
    capacity: Annotated[int, msgspec.Meta(ge=2, lt=2**40)]
    resume_margin: Annotated[int, msgspec.Meta(ge=0, lt=2**40)]


class AnyVersion(msgspec.Struct):
    """What replay.json of every version has."""

    version: int


class Cursor(gate.Strict):
    """Where a replay stands: cursor.json, and the replay's part of a checkpoint. One number per environment."""

    total: list[Count]  # rows ever written
    oldest: list[Count]  # the oldest row number that is still intact
    digest: int | None  # of the checksums of the rows that can be sampled; None: rows were not flushed


class StoredCursor(Cursor):
    """cursor.json, with a checksum of the rest."""

    crc: int


class Store:
    """One array (num_envs, ring length, ...) per column, and 'stamp'; `cursor` is that of a folder's last flush.

    In a folder there is 'crc' too: (num_envs, ring length) uint32, the checksum of each row when it was flushed.
    """

    def __init__(
        self,
        spec: Spec,
        num_envs: int,
        capacity: int,
        resume_margin: int,
        folder: Path | str | None,
        write: bool = True,
    ) -> None:
        """`write=False` opens an existing folder without the right to change it."""
        self.folder = None if folder is None else Path(folder)
        self.cursor: Cursor | None = None
        size = (num_envs, capacity + resume_margin)
        shapes = {f.name: (f.dtype, (*size, *f.shape)) for f in fields_of(spec).values()}
        shapes["stamp"] = (np.dtype(np.int64), size)
        if self.folder is None:
            self._maps: dict[str, np.ndarray] = {
                name: np.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()
            }
        else:
            shapes["crc"] = (np.dtype(np.uint32), size)
            about = {"version": VERSION, "spec": spec_to_dict(spec), "num_envs": num_envs}
            about |= {"capacity": capacity, "resume_margin": resume_margin}
            gate.check_folder(self.folder)
            if gate.exists(self.folder / "replay.json"):
                _same(about, msgspec.to_builtins(read_about(self.folder)), self.folder)
                self._maps = {name: self._open(name, dtype, shape, write) for name, (dtype, shape) in shapes.items()}
                self.cursor = _read_cursor(self.folder / "cursor.json")
            else:
                with writing(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._maps = {name: self._create(name, dtype, shape) for name, (dtype, shape) in shapes.items()}
                    (self.folder / "cursor.json").unlink(missing_ok=True)
                # written last: a folder without it is incomplete and is created again
                save_json(self.folder / "replay.json", about)
        # Plain views: slicing np.memmap itself costs a microsecond more each time.
        self.arrays = {name: np.asarray(array).view(np.ndarray) for name, array in self._maps.items()}

    def path(self, name: str) -> Path:
        """The file of a column."""
        assert self.folder is not None
        return self.folder / (name.replace("/", "_") + ".npy")

    def _create(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
        path = self.path(name)
        path.unlink(missing_ok=True)  # a link there would lead the rows to another place
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        _reserve(path)
        return array

    def _open(self, name: str, dtype: np.dtype, shape: tuple[int, ...], write: bool) -> np.memmap:
        path = self.path(name)
        with gate.opened(path, write=write) as file:
            size = os.fstat(file.fileno()).st_size
            held = _read_header(file, path)
            if held != (dtype, shape):
                raise UserError(
                    f"replay: {path} holds {held[0]} {held[1]}, this run needs {dtype} {shape}; use another folder"
                )
            offset = file.tell()
            want = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if size != want:  # numpy would fill up a file that is too short with zeros
                raise UserError(
                    f"replay: {path} has {size} bytes and not the {want} that it was made with: "
                    "it is damaged; restore it from a copy"
                )
            return np.memmap(file, dtype, "r+" if write else "r", offset, shape)

    def flush(self, cursor: Cursor) -> None:
        """Write the rows to the disk, then the cursor that refers to them. Nothing to do in RAM."""
        if self.folder is None:
            return
        with writing(self.folder):
            for array in self._maps.values():
                if isinstance(array, np.memmap):
                    array.flush()
        stored = msgspec.to_builtins(cursor)
        save_json(self.folder / "cursor.json", {**stored, "crc": _crc(stored)})


def _read_header(file: BinaryIO, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    """(dtype, shape) that an .npy file says; the position in `file` is then that of the rows."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
        if columns_first:
            raise ValueError("columns first")
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError) as error:
        raise UserError(f"replay: {path} is damaged: it has no header of an array ({error})") from None
    return dtype, shape


def _read_cursor(path: Path) -> Cursor | None:
    """The cursor of the last flush; None before the first one. UserError when it is damaged."""
    if not gate.exists(path):
        return None
    stored = gate.read_json(path, StoredCursor)
    cursor = Cursor(stored.total, stored.oldest, stored.digest)
    if _crc(msgspec.to_builtins(cursor)) != stored.crc:
        raise UserError(f"{path} is damaged: its checksum differs; restore it from a copy")
    return cursor


def _crc(data: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def read_about(folder: Path) -> StoredReplay:
    """Version, spec and sizes of the replay in `folder`. UserError: there is none, or replay.json is damaged."""
    path = gate.check_folder(folder) / "replay.json"
    if not gate.exists(path):
        raise UserError(f"replay: {folder} holds no replay (no replay.json in it); give the folder of a recording")
    data = gate.read_bytes(path)
    version = gate.decode(data, AnyVersion, str(path)).version
    if version != VERSION:
        raise UserError(
            f"replay: {folder} has version {version}, this code reads {VERSION}; use the code that wrote it"
        )
    about = gate.decode(data, StoredReplay, str(path))
    rows = about.num_envs * (about.capacity + about.resume_margin)
    if rows * sum(field.bytes for field in fields_of(restore_spec(about.spec, str(path))).values()) > 2**48:
        raise UserError(f"{path} is damaged: no machine holds {rows} rows of that size")
    return about


def _reserve(path: Path) -> None:
    """Claim the disk blocks now: writing a sparse file on a full disk would kill the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise UserError(
                    f"replay: no room for {size / 1e6:.1f} MB at {path} ({error.strerror}); lower the budget"
                ) from error


def _same(want: dict[str, Any], have: dict[str, Any], folder: Path) -> None:
    for key, value in want.items():
        if have.get(key) != value:
            raise UserError(
                f"replay: {folder} was written with {key} = {have.get(key)}, this run has {value}; use another folder"
            )
