"""Errors that are shown to the user as one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Raised for invalid input; the message names the option, its value and how to fix it.

    The command line prints the message without a traceback and exits with 2.
    """


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: '; did you mean ...?' if a valid name is similar to `name`, else the valid names."""
    valid = sorted(valid)
    similar = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
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
