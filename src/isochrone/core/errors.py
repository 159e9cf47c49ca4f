"""The one error a user meets: it names the thing, the value and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints it as one sentence and exits with 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' when something known is close to `name`, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


class MissingExtra(UserError, ModuleNotFoundError):
    """Something needs a package that comes with an optional extra.

    Raised while a file is imported, the registry leaves the file out of its lists, and says this when asked for it.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs '{package}', which is not installed: pip install 'isochrone[{extra}]'")
        self.name = package
