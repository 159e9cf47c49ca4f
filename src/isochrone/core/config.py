"""Configuration: frozen dataclasses with defaults from a recipe, changed by dotted options, stored as JSON.

A field is a plain value (int, float, bool, str, Literal, tuple, X | None), a nested dataclass, a *component* (the
Config of a registered class, stored with its name) or a *mapping* from names to dataclasses of one class. Unknown
options, wrong types and values out of range are UserErrors that name the option, its value and what is valid.

The class of a mapping's entries may have `for_name(name, path)`, which returns the entry completed for its name or
raises UserError, and a ClassVar `kind`, if the names are those of components. `shorthand`, a ClassVar of such a class
or of a component's Config, names the field that `--mapping.NAME VALUE` or `--component NAME:VALUE` sets.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from isochrone.core import registry
from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.paths import full_path

LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "greater than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}

INT64 = 2**63 - 1
"""The largest whole number that torch and numpy can store."""
FLOAT32 = 3.4e38
"""About the largest number of the precision that models compute in."""

# Values come from JSON and the command line. These return a plain bool or Any, so that a type checker keeps the value
# as Any instead of narrowing it to a dict or dataclass of unknown types.


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _class_of(value: Any) -> Any:
    cls: Any = value.__class__
    return cls


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple)


def option(default: Any, help: str = "", **meta: Any) -> Any:
    """A field of a Config.

    Args:
        default: the value, or a function that returns it.
        help: one line for `--help`.
        meta: limits of numbers (`ge`, `gt`, `le`, `lt`); `component=KIND` for the Config of a component;
            `mapping=CLASS` for a dict of CLASS; `names=KIND` for a tuple of names of components; `path=True` for the
            path of a file or folder; `imports=True` for text that makes another library import a module when it
            contains a colon.
    """
    meta = {"help": help, **meta}
    if _is_container(default) or callable(default):
        factory: Callable[[], Any] = default if callable(default) else functools.partial(_class_of(default), default)
        return dataclasses.field(default_factory=factory, metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def hints(cls: type) -> dict[str, Any]:
    """The resolved type of every field of a config class."""
    types_of = typing.get_type_hints(cls)
    return {f.name: types_of[f.name] for f in dataclasses.fields(cls)}


# --- one value


def _invalid(path: str, value: Any, rule: str) -> UserError:
    return UserError(f"{path} = {value!r}: must be {rule}")


def parse(text: Any, kind: Any, path: str) -> Any:
    """A value of type `kind` from text, a JSON value or a value of that type. UserError naming `path`."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return text
    if origin in (Union, types.UnionType):
        if text is None or (isinstance(text, str) and text.lower() in ("none", "null") and type(None) in args):
            return None
        return parse(text, next(a for a in args if a is not type(None)), path)
    if origin is Literal:
        if text not in args:
            raise _invalid(path, text, "one of " + ", ".join(map(str, args)))
        return text
    if origin is tuple:
        items: list[Any] = (
            [t for t in text.strip("()[] ").split(",") if t.strip()] if isinstance(text, str) else list(text)
        )
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(parse(t.strip() if isinstance(t, str) else t, args[0], path) for t in items)
        if len(items) != len(args):
            raise _invalid(path, text, f"{len(args)} values separated by commas")
        return tuple(parse(t.strip() if isinstance(t, str) else t, a, path) for t, a in zip(items, args, strict=True))
    return _parse_scalar(text, kind, path)


def _parse_scalar(text: Any, kind: Any, path: str) -> Any:
    if kind is bool:
        word = str(text).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise _invalid(path, text, "true or false")
    if kind in (int, float):
        try:
            if isinstance(text, bool):
                raise ValueError
            number = float(text)
            if kind is float:
                return number
            if number != int(number):
                raise ValueError
            whole = isinstance(text, int) or (isinstance(text, str) and text.strip().lstrip("+-").isdigit())
            return int(text if whole else number)  # a large seed does not survive a float
        except (TypeError, ValueError, OverflowError):
            raise _invalid(path, text, "a whole number" if kind is int else "a number") from None
    if kind is str:
        if not isinstance(text, str):
            raise _invalid(path, text, "text")
        return text
    raise _invalid(path, text, f"a {getattr(kind, '__name__', kind)}")


def _check_limits(value: Any, meta: Mapping[str, Any], path: str) -> None:
    entries: tuple[Any, ...] = value if _is_tuple(value) else (value,)
    if _is_tuple(value) and len(set(entries)) < len(entries) and isinstance(entries[0], str):
        raise _invalid(path, ",".join(entries), "a list without repetitions")
    for number in entries:
        if number is None or isinstance(number, (str, bool)):
            continue
        if isinstance(number, float) and not abs(number) <= FLOAT32:
            raise _invalid(path, value, "a finite number that float32 can hold")
        if isinstance(number, int) and abs(number) > INT64 and "le" not in meta:
            raise _invalid(path, value, f"at most {INT64}")
        for key, (fits, words) in LIMITS.items():
            if key in meta and not fits(number, meta[key]):
                raise _invalid(path, value, f"{words} {meta[key]}")


# --- the whole tree


def component_config(kind: str, name: str) -> Any:
    """The default Config of a component: by NAME, NAME:VALUE (sets the Config's `shorthand` field) or import path."""
    head, _, value = name.partition(":")
    if value and not registry.is_registered(kind, head):
        head, value = name, ""
    component, head = registry.get(kind, head), registry.canonical(kind, head)
    if not hasattr(component, "Config"):
        raise UserError(f"{kind} '{head}' has no Config: give the class a frozen dataclass of that name")
    cls = component.Config
    config = (cls if getattr(cls, "name", None) == head else _named(cls, head))()
    if value:
        if not hasattr(config, "shorthand"):
            raise UserError(f"{kind} '{head}' takes nothing after the colon; got '{value}'")
        config = dataclasses.replace(config, **{config.shorthand: value})
    return config


@functools.cache
def _named(cls: type, name: str) -> type:
    """The Config class `cls` under another name: that of a component which inherits it, or an import path."""
    attributes = {"name": name, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__reduce__": _reduce}
    return type(cls.__name__, (cls,), attributes)


def _reduce(config: Any) -> Any:
    """Pickle a config of a class that `_named` has made."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return _restore, (_class_of(config).__mro__[1], config.name, values)


def _restore(cls: type, name: str, values: Mapping[str, Any]) -> Any:
    return _named(cls, name)(**values)


def _entry(cls: Any, name: str, path: str, value: Any = None) -> Any:
    """The entry `name` of the mapping at `path`, completed for its name; the default one without a `value`."""
    value = cls() if value is None else value
    if not isinstance(value, cls):
        raise _invalid(f"{path}.{name}", value, f"a group of {', '.join(f.name for f in dataclasses.fields(cls))}")
    complete = getattr(value, "for_name", None)
    return complete(name, f"{path}.{name}") if callable(complete) else value


def validate(config: Any, path: str = "") -> Any:
    """The config with every value in its declared type; UserError for a value that is not valid."""
    changes: dict[str, Any] = {}
    kinds = hints(_class_of(config))
    for f in dataclasses.fields(config):
        here, value = f"{path}{f.name}", getattr(config, f.name)
        if _is_config(value):
            changes[f.name] = validate(value, f"{here}.")
        elif "mapping" in f.metadata:
            entries = {name: _entry(f.metadata["mapping"], name, here, entry) for name, entry in value.items()}
            changes[f.name] = {name: validate(entry, f"{here}.{name}.") for name, entry in entries.items()}
        else:
            changes[f.name] = parse(value, kinds[f.name], here)
            _check_limits(changes[f.name], f.metadata, here)
            if "names" in f.metadata:
                for name in changes[f.name]:
                    registry.get(f.metadata["names"], name)
    config = dataclasses.replace(config, **changes)
    check = getattr(_class_of(config), "check", None)
    if callable(check):  # a method, not a field called "check"
        check(config, path)
    return config


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """A checked copy of `config` with options changed by dotted name, in any order: components before their options.

    Components given by import path are imported.
    """
    listed = [(_keys(config, dotted), value) for dotted, value in changes.items()]
    with registry.trusted():
        for keys, value in sorted(listed, key=lambda item: len(item[0])):
            config = _set(config, keys, value, "", config)
        return validate(config)


def _keys(config: Any, dotted: str) -> list[str]:
    """'loss.z2h.start' -> ['loss', 'z2h', 'start']; without the last key where that is the shorthand of the mapping.

    The name of an entry may be an import path: 'loss.my.module:fn.start' -> ['loss', 'my.module:fn', 'start'].
    """
    before, colon, after = dotted.replace("-", "_").partition(":")
    keys = before.split(".")
    if colon:
        attribute, *rest = after.split(".")
        keys = [keys[0], f"{'.'.join(keys[1:])}:{attribute}", *rest]
    field = next((f for f in dataclasses.fields(config) if f.name == keys[0]), None)
    short = getattr(field.metadata.get("mapping"), "shorthand", None) if field else None
    return keys[:2] if len(keys) == 3 and keys[2] == short else keys


def _set(config: Any, keys: Sequence[str], value: Any, path: str, root: Any) -> Any:
    fields = {f.name: f for f in dataclasses.fields(config)}
    head, rest, here = keys[0], list(keys[1:]), f"{path}{keys[0]}"
    if head not in fields:
        raise UserError(f"unknown option '{here}'{_elsewhere(root, keys, path) or did_you_mean(head, fields)}")
    old, meta = getattr(config, head), fields[head].metadata
    if "mapping" in meta:
        new = _set_entry(old, rest, value, meta["mapping"], here, root)
    elif rest:
        if old is None:
            raise UserError(f"option '{path.rstrip('.')}' has no {head}")
        if not _is_config(old):
            raise UserError(f"option '{here}' holds one value; '{'.'.join(rest)}' under it means nothing")
        new = _set(old, rest, value, f"{here}.", root)
    elif "component" in meta:
        new = value if _is_config(value) else component_config(meta["component"], str(value))
        new = _carry_over(old, new) if new is not value else value
    elif _is_config(old):
        inside = ", ".join(f.name for f in dataclasses.fields(old))
        raise UserError(f"option '{here}' is a group: set one of {inside} in it")
    else:
        new = parse(value, hints(_class_of(config))[head], here)
        if meta.get("path") and new is not None:
            new = str(full_path(new, here))
        _check_limits(new, meta, here)
    return dataclasses.replace(config, **{head: new})


def _carry_over(old: Any, new: Any) -> Any:
    """`new` with old's non-default values of the fields that both Configs inherit from a common dataclass.

    So a recipe's sizes stay when `--model ssm` replaces its RSSM.
    """
    bases = type(new).__mro__[1:]
    common = next((c for c in type(old).__mro__ if c in bases and _is_config(c)), None)
    if common is None:
        return new
    default = type(old)()
    values = {f.name: getattr(old, f.name) for f in dataclasses.fields(common)}
    return dataclasses.replace(new, **{k: v for k, v in values.items() if v != getattr(default, k)})


def _set_entry(
    mapping: Mapping[str, Any], rest: Sequence[str], value: Any, cls: Any, path: str, root: Any
) -> dict[str, Any]:
    """`mapping` with one value of one entry changed. A new entry needs its shorthand first, if the class has one."""
    short, inside = getattr(cls, "shorthand", None), ", ".join(f.name for f in dataclasses.fields(cls))
    if not rest:
        raise UserError(f"option '{path}' holds several entries: write {path}.NAME{'' if short else '.OPTION'}=VALUE")
    name = _canonical(cls, rest[0])
    keys = list(rest[1:]) or ([short] if short else [])
    if not keys:
        raise UserError(f"option '{path}.{name}' is a group: set one of {inside} in it")
    entry = _entry(cls, name, path, mapping.get(name))
    if name not in mapping and short and keys != [short]:
        raise UserError(f"{path}.{name}: give it a {short} too ({path}.{name}=VALUE), for this recipe has none")
    return {**mapping, name: _set(entry, keys, value, f"{path}.{name}.", root)}


def _elsewhere(root: Any, keys: Sequence[str], path: str) -> str:
    """'; did you mean ...' when another place of the config has an option of exactly this name."""
    words = {*path.split("."), *keys}
    same_name = [p for p in option_paths(root) if p.rpartition(".")[2] == keys[-1]]
    best = max(same_name, key=lambda p: len(words & set(p.split("."))), default=None)
    return f"; did you mean '{best}'?" if best else ""


def option_paths(config: Any, path: str = "") -> Iterator[str]:
    """The dotted path of every option in a config."""
    for f in dataclasses.fields(config):
        value, here = getattr(config, f.name), f"{path}{f.name}"
        if _is_config(value):
            yield from option_paths(value, f"{here}.")
        elif "mapping" in f.metadata:
            for name, entry in value.items():
                yield f"{here}.{name}"
                yield from option_paths(entry, f"{here}.{name}.")
        else:
            yield here


def parse_flags(args: Sequence[str]) -> dict[str, str]:
    """['--a.b', '1', '--c=2', '--flag', 'd=3'] -> {'a.b': '1', 'c': '2', 'flag': 'true', 'd': '3'}."""
    out: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        key, eq, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") and not eq:
            raise UserError(f"'{word}' is not an option: write --name value or name=value")
        if not eq:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        out[key.replace("-", "_")] = value
    return out


def to_dict(config: Any, kind: str = "") -> dict[str, Any]:
    """JSON-ready. The name of a component of kind `kind` is replaced by its import path where that is needed."""
    out: dict[str, Any] = {}
    if isinstance(getattr(_class_of(config), "name", None), str):
        out["name"] = registry.address(kind, config.name) if kind else config.name
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if _is_config(value):
            out[f.name] = to_dict(value, f.metadata.get("component", ""))
        elif "mapping" in f.metadata:
            kind_of_names = getattr(f.metadata["mapping"], "kind", None)
            address = functools.partial(registry.address, kind_of_names) if kind_of_names else str
            out[f.name] = {address(name): to_dict(entry) for name, entry in value.items()}
        else:
            out[f.name] = list(value) if _is_tuple(value) else value
    return out


def from_dict(cls: type, data: Mapping[str, Any], path: str = "", like: Any = None) -> Any:
    """The config that `to_dict` wrote. UserError: unknown options, invalid values, and code that is not trusted.

    Args:
        path: where in a larger config this one is, for messages.
        like: an instance whose fields show the classes that annotations do not.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds, values = hints(cls), {}
    for key, value in _group(data, path.rstrip(".") or "the config").items():
        here = f"{path}{key}"
        if key == "name" and isinstance(getattr(cls, "name", None), str):
            continue
        if key not in fields:
            raise UserError(f"unknown option '{here}'{did_you_mean(key, fields)}")
        meta = fields[key].metadata
        if "component" in meta:
            name = _group(value, here).get("name")
            if not isinstance(name, str):
                raise _invalid(f"{here}.name", name, f"the name of one of `isochrone list {meta['component']}`")
            values[key] = from_dict(_class_of(component_config(meta["component"], name)), value, f"{here}.")
        elif "mapping" in meta:
            values[key] = {
                name: _entry_from(meta["mapping"], name, entry, here)
                for name, entry in ((_canonical(meta["mapping"], k), v) for k, v in _group(value, here).items())
            }
        elif _is_config(kinds[key]):
            values[key] = from_dict(typing.cast(type, kinds[key]), value, f"{here}.")
        elif _is_config(getattr(like, key, None)):
            values[key] = from_dict(_class_of(getattr(like, key)), value, f"{here}.")
        else:
            _check_stored(value, kinds[key], here)
            values[key] = parse(value, kinds[key], here)
            if meta.get("imports") and ":" in str(value):
                registry.check_trusted(f"{here} = {value!r}", str(value))
    return validate(cls(**values)) if not path else cls(**values)


def _group(data: Any, path: str) -> Mapping[str, Any]:
    """UserError where JSON holds something else than a group of options."""
    if not isinstance(data, Mapping):
        raise _invalid(path, data, "a group of options")
    return typing.cast(Mapping[str, Any], data)


def _check_stored(value: Any, kind: Any, path: str) -> None:
    """UserError for a JSON value of another type than `to_dict` writes: text for a number is none of its."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return
        kind = next(a for a in args if a is not type(None))
        origin, args = get_origin(kind), get_args(kind)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin is tuple:
        if not isinstance(value, list):
            raise _invalid(path, value, "a list")
        for item in typing.cast(list[Any], value):
            _check_stored(item, args[0], path)
    elif kind is bool and not isinstance(value, bool):
        raise _invalid(path, value, "true or false")
    elif kind in (int, float) and not number:
        raise _invalid(path, value, "a whole number" if kind is int else "a number")
    elif kind is str and not isinstance(value, str):
        raise _invalid(path, value, "text")


def absent(config: Any, data: Mapping[str, Any]) -> list[str]:
    """The dotted names of options that `data`, as `to_dict` once wrote it, lacks: the config has its defaults there."""

    def walk(want: Mapping[str, Any], have: Mapping[str, Any], path: str) -> Iterator[str]:
        for key, value in want.items():
            if key not in have:
                yield f"{path}{key}"
            elif _is_mapping(value) and _is_mapping(have[key]):
                yield from walk(value, have[key], f"{path}{key}.")

    return list(walk(to_dict(config), data, ""))


def _entry_from(cls: Any, name: str, data: Any, path: str) -> Any:
    """An entry of a mapping, as `to_dict` wrote it."""
    like = _entry(cls, name, path)
    return from_dict(cls, data, f"{path}.{name}.", like) if _is_mapping(data) else _entry(cls, name, path, data)


def _canonical(cls: Any, name: str) -> str:
    """The name of a mapping's entry, where it may be the import path of a component."""
    return registry.canonical(cls.kind, name) if ":" in name and hasattr(cls, "kind") else name
