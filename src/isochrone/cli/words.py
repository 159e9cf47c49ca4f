"""The words of a command line: what is given by place, what by name; and a config as a page of help."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isochrone.core.config import LIMITS, hints, parse_flags
from isochrone.core.errors import UserError, did_you_mean

HELP = ("-h", "--help")
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Words:
    """`given`: the words by place. `options`: --name value. `switches`: the flags that take no value."""

    given: tuple[str, ...]
    options: Mapping[str, str]
    switches: frozenset[str]

    def only(self, *names: str) -> None:
        """UserError for an option that is none of `names`."""
        for name in self.options:
            if name not in names:
                raise UserError(f"unknown option '--{name}'{did_you_mean(name, names)}")

    def one(self, what: str, example: str) -> str:
        """The one word given by place."""
        if len(self.given) != 1:
            said = f"got {' '.join(self.given)}" if self.given else "nothing was given"
            raise UserError(f"give one {what}, such as {example}; {said}")
        return self.given[0]

    def without(self, *names: str) -> dict[str, str]:
        """The options that are none of `names`: changes of the config."""
        return {k: v for k, v in self.options.items() if k not in names}


def split(words: Sequence[str], switches: Sequence[str] = ("json",)) -> Words:
    """['zhp', '--train.steps', '9', '--json'] -> given ('zhp',), options {'train.steps': '9'}, switches {'json'}.

    A word by place comes before the options or after a complete `--name value`.
    """
    given: list[str] = []
    options: dict[str, str] = {}
    on: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.removeprefix("--") in switches and word.startswith("--"):
            on.add(word[2:])
        elif word.startswith("--"):
            taken = [word]
            if "=" not in word and rest and not rest[0].startswith("--"):
                taken.append(rest.pop(0))
            options |= parse_flags(taken)
        elif word.startswith("-") and not word[1:2].isdigit():
            raise UserError(f"'{word}' is not an option: options begin with two dashes, such as --run")
        elif "=" in word:
            options |= parse_flags([word])
        else:
            given.append(word)
    return Words(tuple(given), options, frozenset(on))


def asks_help(words: Sequence[str]) -> bool:
    """Is -h or --help among the words?"""
    return any(word in HELP for word in words)


def say(line: str) -> None:
    """A line of progress, on standard error, so that standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)


def show_json(data: Any) -> None:
    """Data for another program."""
    print(json.dumps(data, indent=1, allow_nan=False))


# --- help -------------------------------------------------------------------------------------------------------------


def option_lines(config: Any, path: str = "") -> list[str]:
    """One entry per field of a config, groups with a headline: name, default, range, help."""
    plain, groups = [], []
    kinds = hints(type(config))
    for f in dataclasses.fields(config):
        value, says = getattr(config, f.name), f.metadata.get("help", "")
        name = f"{path}{f.name}".replace("_", "-")
        if "part" in f.metadata:
            head = f"{name}  {value.name}: {says}; `isochrone list {f.metadata['part']}` shows the others"
            groups += ["", head, *option_lines(value, f"{path}{f.name}.")]
        elif "mapping" in f.metadata:
            short = getattr(f.metadata["mapping"], "shorthand", None)
            more = f" (--{name}.NAME VALUE sets {short})" if short else ""
            groups += ["", f"{name}.NAME  {says}{more}; `isochrone list` shows every {name}"]
            for key, entry in value.items():
                groups += option_lines(entry, f"{path}{f.name}.{key}.")
        elif dataclasses.is_dataclass(value):
            groups += ["", f"{name}  {says}", *option_lines(value, f"{path}{f.name}.")]
        else:
            plain.append(_entry(name, _written(value), f"{says}{_range(kinds[f.name], f.metadata)}"))
    return plain + groups


def _entry(name: str, default: str, says: str) -> str:
    left = f"  --{name} {default}"
    return f"{left:<38}  {says}" if len(left) <= 38 else f"{left}\n{'':<40}{says}"


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(v) for v in value) or "''"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is None else str(value)


def _range(kind: Any, meta: Mapping[str, Any]) -> str:
    choices = [str(c) for c in _choices(kind)]
    limits = [f"{SIGNS[key]} {meta[key]}" for key in LIMITS if key in meta]
    told = "|".join(choices) if choices else ", ".join(limits)
    return f" [{told}]" if told else ""


def _choices(kind: Any) -> tuple[Any, ...]:
    from typing import Literal, get_args, get_origin

    if get_origin(kind) is Literal:
        return get_args(kind)
    inner = [c for a in get_args(kind) if a is not type(None) for c in _choices(a)]
    return tuple(inner)
