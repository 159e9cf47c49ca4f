"""HDF5 files of other people: opened, and their parts found, without leaving the file or believing its sizes.

An HDF5 file can say that a dataset lies in another file (external and soft links, virtual datasets, external storage),
or that it has more rows than the disk has bytes. Neither is followed: whatever is wrong is one UserError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue] (its types leave it out)

from isochrone.core import gate
from isochrone.core.errors import UserError
from isochrone.core.paths import check_regular

MOST_COMPRESSED = 1100
"""Bytes that one byte of a file can stand for: deflate reaches 1032."""
FREE = 2**24
"""Bytes that a dataset may declare, whatever the size of the file."""
LARGEST_ATTRIBUTE = 2**20
"""Bytes of an attribute."""


@contextmanager
def opened(path: Path | str) -> Generator[h5py.File]:
    """The HDF5 file `path`, to be read. UserError: missing, no HDF5 file, open in a writer, or damaged (also when that
    shows within the block)."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; give the path of a recording, e.g. --data my.h5")
    check_regular(Path(path), "recording")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} {_refusal(error)}") from error
    try:
        with file:
            yield file
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}); copy or record it again") from error
    except MemoryError as error:
        raise UserError(f"{path} asks for more memory than there is; it may be damaged") from error


def _refusal(error: OSError) -> str:
    """Why h5py did not open a file."""
    text = str(error)
    if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) or "unable to lock" in text or "already open for" in text:
        return "is open for writing in another program, or was not closed by it: close it there, then try again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
        return f"cannot be read: {gate.reason(error)}"
    return f"is truncated or not an HDF5 file ({text}); copy or record it again"


def find(file: h5py.File, name: str, where: Path | str) -> h5py.Group | h5py.Dataset | None:
    """The object called `name` ('obs/image') inside the file; None where there is none.

    UserError for a link on the way, for a dataset of which a part lies elsewhere, and for impossible sizes.
    """
    found: Any = file
    for part in name.split("/"):
        links = found.id.links
        if not isinstance(found, h5py.Group) or not links.exists(part.encode()):
            return None
        if links.get_info(part.encode()).type != h5l.TYPE_HARD:
            raise UserError(
                f"{where}: '{name}' is a link to another place, and links are not followed: copy the data there"
            )
        found = found[part]
    if isinstance(found, h5py.Dataset):
        _check_dataset(found, name, where)
    return found if isinstance(found, (h5py.Group, h5py.Dataset)) else None


def members(group: h5py.Group) -> list[str]:
    """The names in a group, whatever they are."""
    return sorted(str(name) for name in group)


def _check_dataset(data: h5py.Dataset, name: str, where: Path | str) -> None:
    if data.is_virtual or data.external:
        raise UserError(
            f"{where}: the rows of '{name}' lie in another file, which is not read: copy them into this one"
        )
    if data.dtype.kind not in "biuf":
        raise UserError(f"{where}: '{name}' holds {_kind_of(data)}, not numbers")
    if not data.shape:
        raise UserError(f"{where}: '{name}' is a single value or nothing, not one row after the other")
    room = os.path.getsize(data.file.filename) * MOST_COMPRESSED + FREE
    declared = int(np.prod([int(n) for n in data.shape], dtype=object)) * data.dtype.itemsize
    chunk = int(np.prod([int(n) for n in data.chunks or (0,)], dtype=object)) * data.dtype.itemsize
    if max(declared, chunk) > room:
        raise UserError(
            f"{where}: '{name}' of shape {data.shape} would take {max(declared, chunk) / 1e6:.0f} MB, which a file of "
            f"{os.path.getsize(data.file.filename) / 1e6:.2f} MB cannot hold: it is damaged"
        )


def _kind_of(data: h5py.Dataset) -> str:
    if h5py.check_ref_dtype(data.dtype) is not None:
        return "references to other objects"
    return "texts" if h5py.check_string_dtype(data.dtype) is not None else f"values of type {data.dtype}"


def attribute(thing: h5py.File | h5py.Group | h5py.Dataset, name: str, where: Path | str) -> Any:
    """An attribute: a number, a text, or a list of them; None where there is none. UserError for any other kind."""
    if not h5py.h5a.exists(thing.id, name.encode()):
        return None
    stored = h5py.h5a.open(thing.id, name.encode())
    if stored.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return None
    kinds = (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
    if stored.get_type().get_class() not in kinds or stored.get_storage_size() > LARGEST_ATTRIBUTE:
        raise UserError(f"{where}: attribute '{name}' is neither a number nor a text")
    value = thing.attrs[name]
    plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return [_text(item) for item in plain] if isinstance(plain, list) else _text(plain)


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
