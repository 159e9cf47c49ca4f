"""Config: dataclass schema <- recipe <- command line. Dataclasses are the only truth; the resolved file round-trips.

A field is plain (int, float, bool, str, Literal, tuple, X | None), a nested dataclass, a *part* (any registered
component's Config, stored with its name) or a *table* (name -> number, or term -> its settings). Unknown keys, wrong
types and values out of range are errors that name the nearest key, the value and the range.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from isochrone.core import registry
from isochrone.core.errors import UserError, did_you_mean

LIMITS = {
    "ge": (lambda v, x: v >= x, "at least"),
    "gt": (lambda v, x: v > x, "greater than"),
    "le": (lambda v, x: v <= x, "at most"),
    "lt": (lambda v, x: v < x, "less than"),
}


def option(default: Any, help: str = "", **meta: Any) -> Any:
    """A config field with its help line and limits (`ge gt le lt`), or its role (`part=kind`, `table=kind`)."""
    meta = {"help": help, **meta}
    if isinstance(default, (dict, list)) or callable(default):
        factory = default if callable(default) else lambda: type(default)(default)
        return dataclasses.field(default_factory=factory, metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a config class, ClassVars left out."""
    found = typing.get_type_hints(cls)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


# --- one value


def _told(path: str, value: Any, want: str) -> UserError:
    return UserError(f"{path} = {value!r}: must be {want}")


def parse(text: Any, kind: Any, path: str) -> Any:
    """A value of type `kind` from a command-line string, a JSON value or an already typed one."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return text
    if origin in (Union, types.UnionType):
        if text is None or (isinstance(text, str) and text.lower() in ("none", "null") and type(None) in args):
            return None
        return parse(text, next(a for a in args if a is not type(None)), path)
    if origin is Literal:
        if text not in args:
            raise _told(path, text, "one of " + ", ".join(map(str, args)))
        return text
    if origin is tuple:
        items = [t for t in text.strip("()[] ").split(",") if t.strip()] if isinstance(text, str) else list(text)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(parse(t.strip() if isinstance(t, str) else t, args[0], path) for t in items)
        if len(items) != len(args):
            raise _told(path, text, f"{len(args)} values separated by commas")
        return tuple(parse(t.strip() if isinstance(t, str) else t, a, path) for t, a in zip(items, args, strict=True))
    return _plain(text, kind, path)


def _plain(text: Any, kind: Any, path: str) -> Any:
    if kind is bool:
        word = str(text).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise _told(path, text, "true or false")
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
            raise _told(path, text, "a whole number" if kind is int else "a number") from None
    if kind is str:
        if not isinstance(text, str):
            raise _told(path, text, "text")
        return text
    raise _told(path, text, f"a {getattr(kind, '__name__', kind)}")


def _limits(value: Any, meta: Mapping[str, Any], path: str) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and number != number:
            raise _told(path, value, "a number, not NaN")
        for key, (fits, words) in LIMITS.items():
            if key in meta and not fits(number, meta[key]):
                raise _told(path, value, f"{words} {meta[key]}")


# --- the whole tree


def part_config(kind: str, name: str) -> Any:
    """The default Config of the component (kind, name). 'name:value' also sets the Config's `main` field."""
    head, _, main = name.partition(":") if "." not in name.partition(":")[0] else (name, "", "")
    thing = registry.get(kind, head)
    if not hasattr(thing, "Config"):
        raise UserError(f"{kind} '{head}' has no Config: give the class a frozen dataclass of that name")
    config = thing.Config()
    if main:
        if not hasattr(config, "main"):
            raise UserError(f"{kind} '{head}' takes nothing after the colon; got '{main}'")
        config = dataclasses.replace(config, **{config.main: main})
    return config


def _settings(kind: str, name: str) -> Any:
    known = registry.names(kind)
    if name not in known:
        raise UserError(f"no {kind} called '{name}'{did_you_mean(name, known)}")
    return getattr(registry.get(kind, name), "settings", None)


def validate(config: Any, path: str = "") -> Any:
    """Check types and limits of the whole tree; returns the config with every value in its declared type."""
    changes: dict[str, Any] = {}
    kinds = hints(type(config))
    for f in dataclasses.fields(config):
        here, value = f"{path}{f.name}", getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = validate(value, f"{here}.")
        elif "table" in f.metadata:
            changes[f.name] = _table(value, f.metadata, here)
        else:
            changes[f.name] = parse(value, kinds[f.name], here)
            _limits(changes[f.name], f.metadata, here)
    config = dataclasses.replace(config, **changes)
    check = getattr(type(config), "check", None)
    if callable(check):  # a method, not an option that happens to be called so
        check(config, path)
    return config


def _table(table: Mapping[str, Any], meta: Mapping[str, Any], path: str) -> dict[str, Any]:
    known = registry.names(meta["table"])
    done: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{path}.{key}: no {meta['table']} called '{key}'{did_you_mean(key, known)}")
        if dataclasses.is_dataclass(value):
            done[key] = validate(value, f"{path}.{key}.")
        else:
            done[key] = parse(value, float, f"{path}.{key}")
            _limits(done[key], meta, f"{path}.{key}")
    return done


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """Dotted changes laid over a config, parts first so that their fields can follow. Returns a validated copy."""
    for dotted, value in sorted(changes.items(), key=lambda kv: kv[0].count(".")):
        config = _set(config, dotted.replace("-", "_").split("."), value, "")
    return validate(config)


def _set(config: Any, keys: Sequence[str], value: Any, path: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(config)}
    head, rest, here = keys[0], list(keys[1:]), f"{path}{keys[0]}"
    if head not in fields:
        raise UserError(f"unknown option '{here}'{did_you_mean(head, fields)}")
    old, meta = getattr(config, head), fields[head].metadata
    if "table" in meta:
        new = _set_table(dict(old), rest, value, meta, here)
    elif rest:
        if not dataclasses.is_dataclass(old):
            raise UserError(f"option '{here}' holds one value; '{'.'.join(rest)}' under it means nothing")
        new = _set(old, rest, value, f"{here}.")
    elif "part" in meta:
        new = _inherit(old, part_config(meta["part"], str(value)))
    elif dataclasses.is_dataclass(old):
        inside = ", ".join(f.name for f in dataclasses.fields(old))
        raise UserError(f"option '{here}' is a group: set one of {inside} in it")
    else:
        new = parse(value, hints(type(config))[head], here)
        _limits(new, meta, here)
    return dataclasses.replace(config, **{head: new})


def _inherit(old: Any, new: Any) -> Any:
    """`new` with what `old` was told and both know, where a common dataclass makes them one family.

    So a recipe's sizes stay when `--model ssm` puts an SSM in an RSSM's place.
    """
    mine, other = (type(x).__mro__[1:] for x in (old, new))
    family = next((c for c in mine if c in other and dataclasses.is_dataclass(c)), None)
    if family is None:
        return new
    plain = type(old)()
    told = {f.name: getattr(old, f.name) for f in dataclasses.fields(family)}
    return dataclasses.replace(new, **{k: v for k, v in told.items() if v != getattr(plain, k)})


def _set_table(
    table: dict[str, Any], rest: Sequence[str], value: Any, meta: Mapping[str, Any], path: str
) -> dict[str, Any]:
    if not rest:
        raise UserError(f"option '{path}' is a table: write {path}.NAME=VALUE")
    default = _settings(meta["table"], rest[0])
    if len(rest) == 1:
        table[rest[0]] = parse(value, float, f"{path}.{rest[0]}")
        _limits(table[rest[0]], meta, f"{path}.{rest[0]}")
    elif default is None:
        raise UserError(f"{path}.{rest[0]} has no settings")
    else:
        table[rest[0]] = _set(table.get(rest[0], default()), rest[1:], value, f"{path}.{rest[0]}.")
    return table


def parse_flags(args: Sequence[str]) -> dict[str, str]:
    """['--a.b', '1', '--c=2', '--flag'] -> {'a.b': '1', 'c': '2', 'flag': 'true'}; 'a.b=1' works too."""
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


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready; a part carries its registered name under 'name'."""
    out: dict[str, Any] = {"name": config.name} if isinstance(getattr(type(config), "name", None), str) else {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            out[f.name] = to_dict(value)
        elif isinstance(value, Mapping):
            out[f.name] = {k: to_dict(v) if dataclasses.is_dataclass(v) else v for k, v in value.items()}
        else:
            out[f.name] = list(value) if isinstance(value, tuple) else value
    return out


def from_dict(cls: type, data: Mapping[str, Any], path: str = "") -> Any:
    """The config that `to_dict` wrote. Keys the class does not have are errors."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds, values = hints(cls), {}
    for key, value in data.items():
        if key == "name" and isinstance(getattr(cls, "name", None), str):
            continue
        if key not in fields:
            raise UserError(f"unknown option '{path}{key}'{did_you_mean(key, fields)}")
        meta = fields[key].metadata
        if "part" in meta:
            part = type(part_config(meta["part"], value["name"]))
            values[key] = from_dict(part, value, f"{path}{key}.")
        elif "table" in meta:
            values[key] = {
                k: from_dict(_settings(meta["table"], k), v, f"{path}{key}.{k}.") if isinstance(v, Mapping) else v
                for k, v in value.items()
            }
        elif dataclasses.is_dataclass(kinds[key]):
            values[key] = from_dict(typing.cast(type, kinds[key]), value, f"{path}{key}.")
        else:
            values[key] = parse(value, kinds[key], f"{path}{key}")
    return validate(cls(**values)) if not path else cls(**values)


@dataclass(frozen=True)
class Nothing:
    """The Config of a component that has no options."""
