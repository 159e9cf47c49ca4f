"""Storage of the replay: .npy files in a folder, or plain RAM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from isochrone.core.errors import UserError
from isochrone.core.files import load_json, save_json
from isochrone.core.types import Spec
from isochrone.data.episode import fields_of, spec_to_dict

VERSION = 2


class Store:
    """One array (num_envs, ring length, ...) per column, plus 'stamp'; `cursor` is that of a folder's last flush."""

    def __init__(self, spec: Spec, num_envs: int, capacity: int, resume_margin: int, folder: Path | str | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.cursor: Any = None
        size = (num_envs, capacity + resume_margin)
        shapes = {f.name: (f.dtype, (*size, *f.shape)) for f in fields_of(spec).values()}
        shapes["stamp"] = (np.dtype(np.int64), size)
        if self.folder is None:
            self._maps: dict[str, np.ndarray] = {
                name: np.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()
            }
        else:
            about = {"version": VERSION, "spec": spec_to_dict(spec), "num_envs": num_envs}
            about |= {"capacity": capacity, "resume_margin": resume_margin}
            fresh = not (self.folder / "replay.json").exists()
            if not fresh:
                _same(about, read_about(self.folder), self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._maps = {name: self._map(name, dtype, shape, fresh) for name, (dtype, shape) in shapes.items()}
            if fresh:  # written last: a folder without it is incomplete and is created again
                (self.folder / "cursor.json").unlink(missing_ok=True)
                save_json(self.folder / "replay.json", about)
            elif (self.folder / "cursor.json").exists():
                self.cursor = load_json(self.folder / "cursor.json")
        # Plain views: slicing np.memmap itself costs a microsecond more each time.
        self.arrays = {name: np.asarray(array).view(np.ndarray) for name, array in self._maps.items()}

    def _map(self, name: str, dtype: np.dtype, shape: tuple[int, ...], fresh: bool) -> np.memmap:
        assert self.folder is not None
        path = self.folder / (name.replace("/", "_") + ".npy")
        if fresh:
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            _reserve(path)
            return array
        try:
            array = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError) as error:
            raise UserError(
                f"replay: {path} is missing or truncated ({error}); delete the folder and record again"
            ) from error
        if array.dtype != dtype or array.shape != shape:
            raise UserError(
                f"replay: {path} holds {array.dtype} {array.shape}, this run needs {dtype} {shape}; use another folder"
            )
        return array

    def flush(self, cursor: Any) -> None:
        """Write the rows to the disk, then the cursor that refers to them. Nothing to do in RAM."""
        if self.folder is None:
            return
        for array in self._maps.values():
            if isinstance(array, np.memmap):
                array.flush()
        save_json(self.folder / "cursor.json", cursor)


def read_about(folder: Path) -> dict[str, Any]:
    """Version, spec and sizes of the replay in `folder`."""
    if not (folder / "replay.json").exists():
        raise UserError(f"replay: {folder} holds no replay (no replay.json in it); give the folder of a recording")
    about = load_json(folder / "replay.json")
    if about.get("version") != VERSION:
        raise UserError(f"replay: {folder} has version {about.get('version')}, this code reads {VERSION}; record again")
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
