"""Atomic writes: write a temporary file, fsync it, rename it, fsync the folder.

A reader, or a process killed at any instant, sees the complete old file or the complete new one.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isochrone.core.errors import UserError

# no space left, quota exceeded, file-size limit: a full disk as far as the user is concerned
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What drives answer that have no fsync, or none of folders (network and FUSE drives): nothing is lost but certainty.
_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM}


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to the new file `path` and fsync. OSError, possibly with an incomplete file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)  # EXCL: never through a link laid there
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        _sync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Fsync the directory `path`, so that a rename in it survives a power failure."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not listed
        return
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


@contextmanager
def writing(path: Path, intact: str = "") -> Generator[None]:
    """Turn the OSErrors of the block into a UserError that names `path`; `intact` says what is not lost."""
    try:
        yield
    except OSError as error:
        tail = f"; {intact}" if intact else ""
        if error.errno in _DISK_FULL:
            full = f"the disk is full: could not write {path} ({error.strerror}): free some space{tail}"
            raise UserError(full) from error
        raise UserError(f"{path} cannot be written: {error.strerror or error}{tail}") from error


@contextmanager
def replacement(path: Path) -> Generator[Path]:
    """A path beside `path` to write a file to; it replaces `path` when the block ends without an error.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    with writing(path, "the file is as it was before" if os.path.lexists(path) else ""):
        try:
            aside.unlink(missing_ok=True)  # left by a process that was killed and had the same number
            yield aside
            with open(aside, "rb") as written:
                _sync(written.fileno())
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):  # on a drive that cannot be written this fails too, and would hide why
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Replace the file `path` by `data`, or leave it as it was. UserError as `replacement`."""
    with replacement(Path(path)) as aside:
        write_synced(aside, data.encode() if isinstance(data, str) else data)


def save_json(path: Path, data: Any) -> None:
    """Replace the file `path` by `data` as JSON."""
    atomic_write(path, json.dumps(data, indent=1))
