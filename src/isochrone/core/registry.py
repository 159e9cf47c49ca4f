"""Components by name: `@register(kind, name)` where a component is written, `get(kind, name)` where it is used.

Modules are imported on demand: first the one called like the component, then all modules of the kind's package.
Components of other packages are reached by an entry point in the group 'isochrone.KIND', or by their import path
'package.module:Attribute'. A run's config.json may contain such paths: they are imported only within `trusted()`, which
is used for what the user typed and for runs that the user trusts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, TypeVar

from isochrone.core.errors import UserError, did_you_mean

T = TypeVar("T")

HOMES = {
    "model": "isochrone.models",
    "env": "isochrone.envs",
    "planner": "isochrone.planners",
    "loss": "isochrone.losses",
    "agent": "isochrone.agents",
    "metric": "isochrone.evals.metrics",
    "figure": "isochrone.evals.metrics",
    "format": "isochrone.data.formats",
    "sink": "isochrone.training",
    "recipe": "isochrone.recipes",
}
"""The package of each kind of component. Importing one of its modules registers the components in it."""
NAME = r"[A-Za-z0-9_][\w.\-]{0,99}(:[\w.]{1,200})?"
"""What the name of a component may look like, and its import path after a first 'package.module:Attribute'."""
_components: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}
_scanned: set[str] = set()
_trusts: ContextVar[bool] = ContextVar("trusts", default=False)


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator that registers a class or function as (kind, name). ValueError: unknown kind, or name in use."""

    def add(component: T) -> T:
        if kind not in HOMES:
            raise ValueError(f"register: unknown kind '{kind}'{did_you_mean(kind, HOMES)}")
        old = _components[kind].get(name)
        if old is not None and _origin(old) != _origin(component):
            raise ValueError(f"register: {kind} '{name}' is taken by {old!r}")
        _components[kind][name] = component
        return component

    return add


def _origin(component: Any) -> Any:
    """Module and name: equal for a component whose module is imported a second time."""
    return (component.__module__, component.__qualname__) if hasattr(component, "__qualname__") else component


def _path(component: Any) -> str:
    """The import path of a component; a loss is where its function is."""
    written = getattr(component, "fn", component)
    return f"{written.__module__}:{written.__qualname__}"


def get(kind: str, name: str) -> Any:
    """The component (kind, name). UserError: no such component, a missing package, or a path that is not loaded."""
    if ":" in name and name not in _components[kind]:
        same = [c for c in _components[kind].values() if _path(c) == name]  # its module is imported already
        if same:
            return same[0]
        check_trusted(f"{kind} '{name}'", name)
        return load(kind, name)
    if not re.fullmatch(NAME, name):
        raise UserError(f"no {kind} called '{name}'{did_you_mean(name, names(kind))}")
    if name not in _components[kind]:
        _import_module_of(kind, name)
    if name not in _components[kind]:
        _scan(kind)
    if name not in _components[kind] and name in (plugins := _plugins(kind)):
        _components[kind][name] = _load_plugin(kind, plugins[name])
    if name not in _components[kind]:
        raise UserError(f"no {kind} called '{name}'{did_you_mean(name, names(kind))}")
    return _components[kind][name]


def canonical(kind: str, name: str) -> str:
    """The registered name of the component (kind, name), where `name` is the import path of one; else `name`."""
    component = get(kind, name)
    return next((n for n, c in _components[kind].items() if ":" not in n and c is component), name)


def names(kind: str) -> list[str]:
    """Every name of a kind, sorted, without import paths. Imports the kind's package, but no entry point."""
    _scan(kind)
    return sorted({name for name in _components[kind] if ":" not in name} | _plugins(kind).keys())


def components(kind: str, of: type = object) -> dict[str, Any]:
    """Every component of a kind, by name. Entry points of other packages that cannot be loaded, or that are not of the
    type `of`, are passed over, each with one warning."""
    out: dict[str, Any] = {}
    for name in names(kind):
        try:
            out[name] = get(kind, name)
            if not isinstance(out[name], of):
                raise UserError(f"{kind} '{name}' of {_package(_plugins(kind)[name].dist)} is no {of.__name__}")
        except UserError as error:
            if name not in _plugins(kind):
                raise
            out.pop(name, None)
            _warn(f"{error}: it is passed over")
    return out


def is_registered(kind: str, name: str) -> bool:
    """Whether `get` knows the name (its module may still need a package that is not installed)."""
    if name in _components[kind]:
        return True
    module = "." not in name and importlib.util.find_spec(f"{HOMES[kind]}.{name}") is not None
    return module or name in names(kind)


@contextmanager
def trusted(trust: bool = True) -> Generator[None]:
    """Within this context `get` imports components by import path, unless `trust` is false."""
    token = _trusts.set(trust or _trusts.get())
    try:
        yield
    finally:
        _trusts.reset(token)


def check_trusted(what: str, path: str) -> None:
    """UserError outside of `trusted()`. `what` names the option, `path` is its value: 'package.module:Attribute'."""
    if not _trusts.get():
        raise UserError(
            f"{what} is code from outside isochrone (the module '{path.partition(':')[0]}'), which is not imported "
            "unasked: add --trust (in Python: trust=True) if you trust it"
        )


def load(kind: str, path: str) -> Any:
    """Import the component at 'package.module:Attribute'; from then on `get(kind, path)` returns it.

    The working directory is searched last. UserError when there is no such module or attribute.
    """
    if path not in _components[kind]:
        module, _, attribute = path.partition(":")
        here = os.getcwd()
        if not {"", here} & set(sys.path):
            sys.path.append(here)
        try:
            _components[kind][path] = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # a module of somebody else may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name == module and "." not in module:
                raise UserError(f"no {kind} called '{module}'{did_you_mean(module, names(kind))}") from error
            expected = isinstance(error, (ImportError, AttributeError))
            text = str(error) if expected else f"{type(error).__name__}: {error}"
            raise UserError(f"{kind} '{path}' cannot be imported: {text}") from error
    return _components[kind][path]


def address(kind: str, name: str) -> str:
    """What to store so that another process finds the component: its name, or its import path if only that works.

    A component that an outside module registered with `@register` is unknown to a process without that module.
    """
    path = _path(get(kind, name))
    inside = ":" in name or path.partition(".")[0] == "isochrone" or name in _plugins(kind)
    return name if inside else path


def _import_module_of(kind: str, name: str) -> None:
    """Import the module called like the component, if there is one."""
    try:
        importlib.import_module(f"{HOMES[kind]}.{name}")
    except ModuleNotFoundError as error:
        if isinstance(error, UserError):
            raise  # it says which optional extra is missing
        if error.name and not error.name.startswith("isochrone"):
            raise UserError(f"{kind} '{name}' needs the package '{error.name}': pip install {error.name}") from error


def _scan(kind: str) -> None:
    """Import every module of the kind's package, except those that need a package that is not installed."""
    if kind in _scanned:
        return
    package = importlib.import_module(HOMES[kind])
    for info in pkgutil.iter_modules(package.__path__):
        try:
            importlib.import_module(f"{HOMES[kind]}.{info.name}")
        except ModuleNotFoundError as error:
            if (error.name or "isochrone").startswith("isochrone"):
                raise
    _scanned.add(kind)


@functools.cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    """Entry points of installed packages, not loaded."""
    return {point.name: point for point in reversed(_entry_points()) if point.group == f"isochrone.{kind}"}


@functools.cache
def _entry_points() -> list[EntryPoint]:
    """Those of every group of isochrone, in the order of the search path. Read once: it takes 10 ms."""
    points: list[EntryPoint] = []
    for package in distributions():
        try:
            points += [point for point in package.entry_points if point.group.startswith("isochrone.")]
        except Exception as error:  # a damaged file of another package must not stop this one
            _warn(f"the entry points of {_package(package)} cannot be read ({_text(error)})")
    return points


def _load_plugin(kind: str, point: EntryPoint) -> Any:
    """The component of an entry point. UserError, whatever importing the other package raises."""
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{kind} '{point.name}' of {_package(point.dist)} cannot be imported ({_text(error)})"
        ) from error


def _package(package: Distribution | None) -> str:
    try:
        return "an installed package" if package is None else f"the installed package '{package.name}'"
    except Exception:  # its name is damaged too
        return "an installed package"


def _text(error: BaseException) -> str:
    """The class and the first line of an error of somebody else's code."""
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(": ")


@functools.cache
def _warn(message: str) -> None:
    """Warn once."""
    logging.getLogger("isochrone").warning(message)
