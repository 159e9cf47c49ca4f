"""Config: dataclass schema <- recipe <- command line. Dataclasses are the only truth; the resolved file round-trips.

A field is plain (int, float, bool, str, Literal, tuple, X | None), a nested dataclass, a *part* (any registered
component's Config, stored with its name) or a *mapping* from names to dataclasses of one class. Unknown keys, wrong
types and values out of range are errors that name the nearest key, the value and the range.

The class of a mapping's entries may have `for_name(name, path)`, which returns the entry completed for its name or
raises UserError, and a ClassVar `shorthand`: the field that `--mapping.NAME VALUE` sets.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
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
    """A config field with its help line and limits (`ge gt le lt`), or its role (`part=kind`, `mapping=class`)."""
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


def _entry(cls: Any, name: str, path: str, value: Any = None) -> Any:
    """The entry `name` of the mapping at `path`, completed for its name; the default one without a `value`."""
    value = cls() if value is None else value
    if not isinstance(value, cls):
        raise _told(f"{path}.{name}", value, f"a group of {', '.join(f.name for f in dataclasses.fields(cls))}")
    complete = getattr(value, "for_name", None)
    return complete(name, f"{path}.{name}") if callable(complete) else value


def validate(config: Any, path: str = "") -> Any:
    """Check types and limits of the whole tree; returns the config with every value in its declared type."""
    changes: dict[str, Any] = {}
    kinds = hints(type(config))
    for f in dataclasses.fields(config):
        here, value = f"{path}{f.name}", getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = validate(value, f"{here}.")
        elif "mapping" in f.metadata:
            entries = {name: _entry(f.metadata["mapping"], name, here, entry) for name, entry in value.items()}
            changes[f.name] = {name: validate(entry, f"{here}.{name}.") for name, entry in entries.items()}
        else:
            changes[f.name] = parse(value, kinds[f.name], here)
            _limits(changes[f.name], f.metadata, here)
    config = dataclasses.replace(config, **changes)
    check = getattr(type(config), "check", None)
    if callable(check):  # a method, not an option that happens to be called so
        check(config, path)
    return config


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """Dotted changes laid over a config, parts first so that their fields can follow. Returns a validated copy."""
    listed = [(_keys(config, dotted), value) for dotted, value in changes.items()]
    for keys, value in sorted(listed, key=lambda kv: len(kv[0])):
        config = _set(config, keys, value, "", config)
    return validate(config)


def _keys(config: Any, dotted: str) -> list[str]:
    """'loss.z2h.weight' -> ['loss', 'z2h'], where `weight` is the shorthand; so an entry's first value comes first."""
    keys = dotted.replace("-", "_").split(".")
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
        if not dataclasses.is_dataclass(old):
            raise UserError(f"option '{here}' holds one value; '{'.'.join(rest)}' under it means nothing")
        new = _set(old, rest, value, f"{here}.", root)
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


def _set_entry(
    mapping: Mapping[str, Any], rest: Sequence[str], value: Any, cls: Any, path: str, root: Any
) -> dict[str, Any]:
    """`mapping` with one value in one entry changed. A new entry needs its shorthand first, where the class has one."""
    short, inside = getattr(cls, "shorthand", None), ", ".join(f.name for f in dataclasses.fields(cls))
    if not rest:
        raise UserError(f"option '{path}' holds several entries: write {path}.NAME{'' if short else '.OPTION'}=VALUE")
    name = rest[0]
    keys = list(rest[1:]) or ([short] if short else [])
    if not keys:
        raise UserError(f"option '{path}.{name}' is a group: set one of {inside} in it")
    entry = _entry(cls, name, path, mapping.get(name))
    if name not in mapping and short and keys != [short]:
        raise UserError(f"{path}.{name}: give it a {short} too ({path}.{name}=VALUE), for this recipe has none")
    return {**mapping, name: _set(entry, keys, value, f"{path}.{name}.", root)}


def _elsewhere(root: Any, keys: Sequence[str], path: str) -> str:
    """'; did you mean ...' when another place of the config has an option of exactly this name."""
    asked = {*path.split("."), *keys}
    found = [p for p in _paths(root) if p.rpartition(".")[2] == keys[-1]]
    best = max(found, key=lambda p: len(asked & set(p.split("."))), default=None)
    return f"; did you mean '{best}'?" if best else ""


def _paths(config: Any, path: str = "") -> Iterator[str]:
    """The dotted path of every option in a config."""
    for f in dataclasses.fields(config):
        value, here = getattr(config, f.name), f"{path}{f.name}"
        if dataclasses.is_dataclass(value):
            yield from _paths(value, f"{here}.")
        elif "mapping" in f.metadata:
            for name, entry in value.items():
                yield f"{here}.{name}"
                yield from _paths(entry, f"{here}.{name}.")
        else:
            yield here


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


def from_dict(cls: type, data: Mapping[str, Any], path: str = "", like: Any = None) -> Any:
    """The config that `to_dict` wrote. Keys the class does not have are errors.

    `like` is an instance that shows the classes of fields whose annotation does not.
    """
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
        elif "mapping" in meta:
            values[key] = {k: _entry_from(meta["mapping"], k, v, f"{path}{key}") for k, v in value.items()}
        elif dataclasses.is_dataclass(kinds[key]):
            values[key] = from_dict(typing.cast(type, kinds[key]), value, f"{path}{key}.")
        elif dataclasses.is_dataclass(getattr(like, key, None)) and isinstance(value, Mapping):
            values[key] = from_dict(type(getattr(like, key)), value, f"{path}{key}.")
        else:
            values[key] = parse(value, kinds[key], f"{path}{key}")
    return validate(cls(**values)) if not path else cls(**values)


def _entry_from(cls: Any, name: str, data: Any, path: str) -> Any:
    """An entry of a mapping, as `to_dict` wrote it."""
    like = _entry(cls, name, path)
    return from_dict(cls, data, f"{path}.{name}.", like) if isinstance(data, Mapping) else _entry(cls, name, path, data)


@dataclass(frozen=True)
class Nothing:
    """The Config of a component that has no options."""
