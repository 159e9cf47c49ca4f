"""Files that are whole or absent: write aside, fsync, rename, fsync the folder.

A reader, or a process killed at any instant, sees the old file or the new one, never a part of one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isochrone.core.errors import UserError

# No space, over quota, over the file-size limit: to the user all three are a full disk.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_synced(path: Path, data: bytes) -> None:
    """Write all of `data` to `path` and force it to the disk. Raises OSError; may leave a part behind."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Force the names inside `path` to the disk, so that a rename survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def report_full_disk(path: Path, kept: str = "") -> Iterator[None]:
    """Turn 'no space left' into one sentence naming `path`; `kept` says what is still intact."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        tail = f"; {kept}" if kept else ""
        raise UserError(
            f"the disk is full: could not write {path} ({error.strerror}): free some space{tail}"
        ) from error


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the file `path` by `data`, or leave it as it was. UserError when the disk is full."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with report_full_disk(path, "the file is as it was before"):
        try:
            write_synced(aside, data.encode() if isinstance(data, str) else data)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
