"""Paths that a user wrote: expanded, and refused where they cannot name anything."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from isochrone.core.errors import UserError


def full_path(text: str | os.PathLike[str], option: str) -> Path:
    """The path with '~' expanded, as a shell does it at the beginning of a word.

    Args:
        option: where it was written, for messages.

    Raises:
        UserError: it is empty, contains a zero byte, is too long, or '~NAME' names no user.
    """
    text = os.fspath(text)
    if not text or "\0" in text:
        raise UserError(f"{option} {text!r}: give the path of a file or folder")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        user = path.split(os.sep)[0]
        raise UserError(f"{option} {text}: there is no user '{user[1:]}'; write ./{text} for a name that begins with ~")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"{option} {text}: the name is too long for this file system; choose a shorter one"
            ) from None
        if error.errno == errno.ELOOP:
            raise UserError(f"{option} {text}: its links lead in a circle; remove them") from None
    except UnicodeEncodeError:
        raise UserError(f"{option} {text!r}: no file can have such a name; choose another one") from None
    return Path(path)


def check_regular(path: Path, what: str) -> None:
    """UserError for a pipe, a device or a socket: reading may last for ever. A missing file passes."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # whoever opens it says why it cannot be read
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{what} '{path}' is a pipe or a device: give the path of a file")
