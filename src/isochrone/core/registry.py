"""`@register(kind, name)`: one new file, one line. A name is found by importing the file of the same name, lazily.

Outside our tree the same classes come by 'package.module:Attribute' or an entry point in the group 'isochrone.<kind>'.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from isochrone.core.errors import UserError, did_you_mean

T = TypeVar("T")

# Where each kind lives. A package is searched file by file; importing a file registers what it holds.
HOMES = {
    "model": "isochrone.models",
    "env": "isochrone.envs",
    "planner": "isochrone.planners",
    "loss": "isochrone.losses",
    "agent": "isochrone.agents",
    "metric": "isochrone.evals.measures",
    "figure": "isochrone.evals.figures",
    "format": "isochrone.data.formats",
    "sink": "isochrone.train",
    "recipe": "isochrone.recipes",
}
_FOUND: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}
_SCANNED: set[str] = set()


def _origin(thing: Any) -> Any:
    """Where a thing was written; a file imported twice brings the same thing again, not another one."""
    return (thing.__module__, thing.__qualname__) if hasattr(thing, "__qualname__") else thing


def register(kind: str, name: str) -> Callable[[T], T]:
    """Make a class or function known as (kind, name). Two different things under one name are refused."""

    def keep(thing: T) -> T:
        if kind not in HOMES:
            raise ValueError(f"register: unknown kind '{kind}'{did_you_mean(kind, HOMES)}")
        old = _FOUND[kind].get(name)
        if old is not None and _origin(old) != _origin(thing):
            raise ValueError(f"register: {kind} '{name}' is taken by {old!r}")
        _FOUND[kind][name] = thing
        return thing

    return keep


def _scan(kind: str) -> None:
    if kind in _SCANNED:
        return
    package = importlib.import_module(HOMES[kind])
    for info in pkgutil.iter_modules(package.__path__):
        try:
            importlib.import_module(f"{HOMES[kind]}.{info.name}")
        except ModuleNotFoundError as error:  # an extra that is not installed hides its own file, not the whole folder
            if (error.name or "isochrone").startswith("isochrone"):
                raise
    for point in entry_points(group=f"isochrone.{kind}"):
        _FOUND[kind].setdefault(point.name, point.load())
    _SCANNED.add(kind)


def get(kind: str, name: str) -> Any:
    """The thing registered as (kind, name); tries the file of that name first, then the whole folder."""
    if name in _FOUND[kind]:
        return _FOUND[kind][name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{kind} '{name}' cannot be imported: {error}") from error
    try:
        importlib.import_module(f"{HOMES[kind]}.{name}")
    except ModuleNotFoundError as error:
        if isinstance(error, UserError):
            raise  # it names the extra that is missing
        if error.name and not error.name.startswith("isochrone"):
            raise UserError(f"{kind} '{name}' needs the package '{error.name}': pip install {error.name}") from error
    if name not in _FOUND[kind]:
        _scan(kind)
    if name not in _FOUND[kind]:
        raise UserError(f"no {kind} called '{name}'{did_you_mean(name, _FOUND[kind])}")
    return _FOUND[kind][name]


def names(kind: str) -> list[str]:
    """Every registered name of a kind, sorted. Imports the kind's whole folder."""
    _scan(kind)
    return sorted(_FOUND[kind])
