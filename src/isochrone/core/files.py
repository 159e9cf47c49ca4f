"""Atomic writes: write a temporary file, fsync it, rename it, fsync the folder.

A reader, or a process killed at any instant, sees the complete old file or the complete new one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isochrone.core.errors import UserError

# no space left, quota exceeded, file-size limit: a full disk as far as the user is concerned
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and fsync. OSError, possibly with an incomplete file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Fsync the directory `path`, so that a rename in it survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def report_full_disk(path: Path, intact: str = "") -> Iterator[None]:
    """Turn the OSErrors of a full disk into a UserError that names `path`; `intact` says what is not lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        tail = f"; {intact}" if intact else ""
        raise UserError(
            f"the disk is full: could not write {path} ({error.strerror}): free some space{tail}"
        ) from error


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the file `path` by `data`, or leave it unchanged. UserError when the disk is full."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with report_full_disk(path, "the file is unchanged"):
        try:
            write_synced(temporary, data.encode() if isinstance(data, str) else data)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
