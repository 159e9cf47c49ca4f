"""The gate through which every file of a run is read: it may have been damaged, or made by somebody else.

Only a regular file is opened: no link (it may lead out of the folder), no pipe (reading it may wait for ever), no
device. A file has a size limit. JSON is decoded into a declared type: numbers are finite, names known, nesting bounded.
Whatever is wrong is a UserError that names the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from isochrone.core.errors import UserError

T = TypeVar("T")

SMALL = 16 * 2**20
"""Bytes of the largest JSON file that is read whole."""
LARGE = 2**30
"""Bytes of the largest file of lines."""
DEEPEST = 64
"""Levels of lists and groups in a JSON file."""
_FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY")
_KINDS = (
    (stat.S_ISLNK, "a link, and files of a run are not followed to other places: put the file itself there"),
    (stat.S_ISDIR, "a folder, not a file"),
    (stat.S_ISFIFO, "a pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
)


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Base of the declared contents of a JSON file: every name is known, and has its type."""


def exists(path: Path) -> bool:
    """Whether anything has this name, be it a link that leads nowhere. UserError where the folder is closed to us."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from None
    return True


def check_folder(path: Path) -> Path:
    """The folder `path`. UserError where it is a link or no folder; one that does not exist yet is fine."""
    if exists(path):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise UserError(f"{path} is a link, and a run is kept in one folder: put the folder itself there")
        if not stat.S_ISDIR(mode):
            raise UserError(f"{path} is not a folder: move it away")
    return path


def check_file(path: Path) -> None:
    """UserError where `path` is anything but a regular file; nothing of that name is fine."""
    if exists(path):
        _check_kind(path, os.lstat(path).st_mode)


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((words for matches, words in _KINDS if matches(mode)), "a device, not a file")
        raise UserError(f"{path} is {what}")


@contextmanager
def opened(path: Path, limit: int | None = None, write: bool = False) -> Generator[BinaryIO]:
    """The regular file `path`, open for reading (`write`: also for writing in place).

    Raises:
        UserError: it is missing, no regular file, larger than `limit` bytes, or cannot be read.
    """
    flags = os.O_RDWR if write else os.O_RDONLY
    for name in _FLAGS:
        flags |= getattr(os, name, 0)
    try:
        _check_kind(path, os.lstat(path).st_mode)  # before it is opened: opening some devices does something
        with os.fdopen(os.open(path, flags), "r+b" if write else "rb") as file:
            about = os.fstat(file.fileno())
            _check_kind(path, about.st_mode)
            if limit is not None and about.st_size > limit:
                raise UserError(f"{path} has {about.st_size} bytes, and at most {limit} are read: it is damaged")
            yield file
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What an OSError says, without its path."""
    return getattr(error, "strerror", None) or str(error)


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """The contents of a regular file of at most `limit` bytes. UserError as `opened`."""
    with opened(path, limit) as file:
        return file.read(limit + 1)


def read_json(path: Path, kind: type[T], limit: int = SMALL) -> T:
    """The JSON file `path` as a `kind` (a `Strict` class, dict, ...). UserError naming file, place and rule."""
    return decode(read_bytes(path, limit), kind, str(path))


def decode(data: bytes, kind: type[T], where: str) -> T:
    """JSON as a `kind`; `where` names it in messages. UserError: damaged, of another shape, or nested too deeply."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where} is damaged: {words}") from None
    _check_values(msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else value, where)
    return value


def _check_values(value: Any, where: str) -> None:
    """UserError for a number that no computer number holds, and for too many levels of lists and groups."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += cast(dict[str, Any], item).values()
            elif isinstance(item, list):
                inner += cast(list[Any], item)
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                raise UserError(f"{where} is damaged: it holds a number of {item.bit_length()} bits")
        if not inner:
            return
        level = inner
    raise UserError(f"{where} is damaged: nested too deeply")


def read_lines(path: Path, limit: int = LARGE) -> list[dict[str, Any]]:
    """The rows of a file with one JSON object per line, each with a whole number 'step'.

    A last line without its newline is half-written and left out. UserError for any other line that is wrong.
    """
    rows: list[dict[str, Any]] = []
    with opened(path, limit) as file:
        for number, line in enumerate(iter(lambda: file.readline(SMALL), b""), 1):
            try:
                row = decode(line, dict[str, Any], f"{path}, line {number},")
            except UserError:
                if line.endswith(b"\n") or len(line) == SMALL:
                    raise
                break
            step = row.get("step")
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise UserError(f"{path}, line {number}, is damaged: it has no step; correct or delete that line")
            rows.append(row)
    return rows
