"""Atomic writes: write a temporary file, fsync it, rename it, fsync the folder.

A reader, or a process killed at any instant, sees the complete old file or the complete new one.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
def report_full_disk(path: Path, intact: str = "") -> Generator[None]:
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


@contextmanager
def replacement(path: Path) -> Generator[Path]:
    """A path beside `path` to write a file to; it replaces `path` when the block ends without an error.

    Raises:
        UserError: the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with report_full_disk(path, "the file is as it was before"):
        try:
            yield aside
            with open(aside, "rb") as written:
                os.fsync(written.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Replace the file `path` by `data`, or leave it as it was. UserError when the disk is full."""
    with replacement(Path(path)) as aside:
        write_synced(aside, data.encode() if isinstance(data, str) else data)


def save_json(path: Path, data: Any) -> None:
    """Replace the file `path` by `data` as JSON."""
    atomic_write(path, json.dumps(data, indent=1))


def load_json(path: Path) -> Any:
    """The JSON in `path`. UserError, naming it, when it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete the folder and record again") from error
