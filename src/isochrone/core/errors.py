"""Errors that are shown to the user as one sentence."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a message on a terminal."""


class UserError(Exception):
    """Raised for invalid input; the message names the option, its value and how to fix it.

    The command line prints the message without a traceback and exits with 2.
    """


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` as one line for a terminal: control characters escaped, and what is too long left out in the middle.

    Names come from files of other people: an escape sequence in one could move the cursor, change colours or write
    another line than the program did.
    """
    if len(text) > longest:
        head = longest * 2 // 3
        text = f"{text[:head]} … {text[head - longest :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: '; did you mean ...?' if a valid name is similar to `name`, else the valid names."""
    valid = sorted(valid)
    similar = difflib.get_close_matches(name[:100], valid, n=1, cutoff=0.6)
    similar = similar or [word for word in valid if word.startswith(f"{name}_") or word.endswith(f"_{name}")]
    if similar:
        return f"; did you mean '{similar[0]}'?"
    return f"; choose from: {', '.join(valid)}" if valid else ""


class MissingExtra(UserError, ModuleNotFoundError):
    """Raised on import by a module that needs a package of an optional extra.

    The registry leaves the module's components out of its lists, and raises this error when one is requested by name.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs '{package}', which is not installed: pip install 'isochrone[{extra}]'")
        self.name = package
