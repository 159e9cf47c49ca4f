"""The parser of the commands: argparse, with options of the config as `--dotted.name VALUE`; and output for people."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NoReturn, get_args, get_origin

from isochrone.cli.output import results, show
from isochrone.core.config import LIMITS, hints, parse_flags
from isochrone.core.errors import UserError, did_you_mean, printable
from isochrone.core.paths import check_regular, full_path

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
WIDTH = 110
"""Columns where the output is not a terminal."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors, and which collects options of the config.

    `config_options` (default: none are accepted) lists the first parts of valid dotted options, such as 'train'.
    """

    def __init__(self, command: str, usage: Sequence[str], description: str, examples: str = "", **more: Any) -> None:
        lines = [f"isochrone {command} {line}".rstrip() for line in usage]
        super().__init__(
            prog=f"isochrone {command}",
            usage="\n       ".join(lines),
            description="\n".join(fill(line, 100) for line in description.split("\n")),
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        self.config_options: Sequence[str] = ()

    def add_json(self) -> None:
        """--json: results for another program."""
        self.add_argument("--json", action="store_true", help="print JSON for other programs")

    def add_trust(self) -> None:
        """--trust: allow a run to import the code that its config names."""
        self.add_argument("--trust", action="store_true", help="import code from outside isochrone that RUN names")

    def names(self) -> list[str]:
        """The options without their dashes."""
        return [name[2:] for name in self._option_string_actions if name.startswith("--")]

    def print_help(self, file: Any = None) -> None:
        """Help is a result."""
        super().print_help(file or results())

    def error(self, message: str) -> NoReturn:
        raise UserError(message[:1].lower() + message[1:])

    def parse(
        self, words: Sequence[str], into: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, dict[str, str]]:
        """(arguments of the command, {dotted option of the config: text}).

        A word with '=' but without dashes is an option where it begins like one of the config; otherwise it may be a
        path. '--' ends the options: all words after it are recipes or paths.

        Args:
            into: the namespace to fill; default: a new one.

        Raises:
            UserError: an unknown option.
        """
        own: list[str] = []
        others: list[str] = []
        changes: dict[str, str] = {}
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                others += rest
                break
            option = word.removeprefix("--").partition("=")[0]
            own_action = self._option_string_actions.get(f"--{option}") if word.startswith("--") else None
            takes_value = word.startswith("--") and "=" not in word and (own_action is None or own_action.nargs != 0)
            value = [rest.pop(0)] if takes_value and rest and not rest[0].startswith("--") else []
            if own_action is not None:
                own.append("=".join([word, *value]))
            elif word.startswith("--") or (not word.startswith("-") and "=" in word and self._in_config(option)):
                self._check_config_option(option)
                changes |= parse_flags([word, *value])
            elif word == "-h":
                own.append(word)
            elif word.startswith("-"):
                raise UserError(f"'{word}' is not an option: options begin with two dashes, such as --run")
            else:
                others.append(word)
        args = argparse.Namespace() if into is None else into
        self.parse_args(own, args)
        for action in self._actions:
            if not action.option_strings:
                setattr(args, action.dest, others)
                return args, changes
        if others:
            raise UserError(f"{self.prog} takes options only; got {' '.join(others)}")
        return args, changes

    def _in_config(self, option: str) -> bool:
        """Whether the config may have this option."""
        return option.replace("-", "_").partition(".")[0] in self.config_options

    def _check_config_option(self, option: str) -> None:
        """UserError for what cannot be an option of the config; the rest is checked with the config."""
        if self._in_config(option):
            return
        own = [name.replace("_", "-") for name in self.names()]
        if not self.config_options or get_close_matches(option, own):
            raise UserError(f"unknown option '--{option}'{did_you_mean(option, own)}")


def config_heads() -> tuple[str, ...]:
    """The first parts of all options of a recipe."""
    from isochrone.recipes.schema import Config

    return ("planner", *(f.name for f in dataclasses.fields(Config)))


def one(words: Sequence[str], what: str, example: str) -> str:
    """The only one of the positional words. UserError when there are none or several, or it is empty."""
    if len(words) != 1 or not words[0]:
        got = f"got {' '.join(word or repr(word) for word in words)}" if words else "nothing was given"
        raise UserError(f"give one {what}, such as {example}; {got}")
    return words[0]


def run_folder(args: argparse.Namespace) -> Path:
    """The run folder of a command about one run. UserError when there is none, or no path."""
    path = full_path(one(args.run, "run folder", "runs/tiny-1"), "run folder")
    args.run = str(path)
    return path


def output_file(text: str, option: str) -> Path:
    """The path of a file to be written. UserError, before anything is computed, where there can be none."""
    path = full_path(text, option)
    if path.is_dir():
        raise UserError(f"{option} {text} is a folder: give the name of a file in it")
    check_regular(path, option)  # a device would be replaced by a file
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"{option} {text} cannot be written: {parent} is not a folder; choose another place")
    if not os.access(path if path.exists() else parent, os.W_OK):
        raise UserError(f"{option} {text} cannot be written: permission denied; choose another place")
    return path


# --- output -----------------------------------------------------------------------------------------------------------


def show_json(data: Any) -> None:
    """Print data for another program."""
    show(json.dumps(data, indent=1, allow_nan=False))


def show_table(rows: Iterable[Sequence[str]], indent: int = 0) -> None:
    """Print columns of text; the last one wraps."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(row) for row in rows]
    table = Table.grid(padding=(0, 2))
    for _ in range(len(rows[0]) - 1 if rows else 0):
        table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=results(), width=None if results().isatty() else WIDTH)
    console.print(Padding(table, (0, 0, 0, indent), expand=False))


def option_lines(config: Any, path: str = "") -> list[str]:
    """One entry per field of a config (name, value, help, range), then its groups with a headline each."""
    plain, groups = [], []
    kinds = hints(type(config))
    for f in dataclasses.fields(config):
        value, text = getattr(config, f.name), f.metadata.get("help", "")
        name = f"{path}{f.name}".replace("_", "-")
        if "component" in f.metadata:
            head = f"{name}  {value.name}: {text}; `isochrone list {f.metadata['component']}` shows all"
            groups += ["", head, *option_lines(value, f"{path}{f.name}.")]
        elif "mapping" in f.metadata:
            short = getattr(f.metadata["mapping"], "shorthand", None)
            more = f" (--{name}.NAME VALUE sets {short})" if short else ""
            groups += ["", f"{name}.NAME  {text}{more}; `isochrone list` shows every {name}"]
            for key, entry in value.items():
                groups += _mapping_entry(f"{path}{f.name}.{key}", entry, short)
        elif dataclasses.is_dataclass(value):
            groups += ["", f"{name}  {text}", *option_lines(value, f"{path}{f.name}.")]
        else:
            plain.append(_entry(name, _text(value), f"{text}{_range(kinds[f.name], f.metadata)}"))
    return plain + groups


def _mapping_entry(path: str, entry: Any, short: str | None) -> list[str]:
    """The options of one entry of a mapping; the one with a shorthand first, by its short name."""
    if short is None:
        return option_lines(entry, f"{path}.")
    field = next(f for f in dataclasses.fields(entry) if f.name == short)
    first = _entry(path.replace("_", "-"), _text(getattr(entry, short)), field.metadata.get("help", ""))
    long_name = f"  --{path}.{short} ".replace("_", "-")
    return [first, *(line for line in option_lines(entry, f"{path}.") if not line.startswith(long_name))]


def _entry(name: str, value: str, text: str) -> str:
    left = f"  --{name} {value}"
    return f"{left:<38}  {text}" if len(left) <= 38 else f"{left}\n{'':<40}{text}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_text(v) for v in value) or "''"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(kind: Any, meta: Mapping[str, Any]) -> str:
    choices = "|".join(str(c) for c in _choices(kind))
    limits = ", ".join(f"{SIGNS[key]} {meta[key]}" for key in LIMITS if key in meta)
    return f" [{choices or limits}]" if choices or limits else ""


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(c for a in get_args(kind) if a is not type(None) for c in _choices(a))
