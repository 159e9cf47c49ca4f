"""isochrone data: record episodes, convert, check and describe recordings."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from isochrone.cli.args import Parser, config_heads, one, output_file, show_json, show_table
from isochrone.cli.output import show
from isochrone.core.errors import UserError, did_you_mean, printable
from isochrone.core.paths import full_path

log = logging.getLogger(__name__)
ACTIONS = ("collect", "convert", "validate", "info")
OPTIONS = {
    "collect": ("out",),
    "convert": ("out", "layout", "key", "size", "cut"),
    "validate": ("json", "recipe"),
    "info": ("json",),
}
"""Options of each action, beside those of the config."""
EXAMPLES = """\
  isochrone data collect zhp --out my.h5 --data.num-envs 16 --data.rows 505
  isochrone data convert halfcheetah.hdf5 --out my.h5
  isochrone data validate my.h5 --recipe planet_small
  isochrone train zhp --data my.h5

Formats are detected by path; docs/add-a-format.md adds others. The format hdf5 (.h5, .hdf5) holds episodes end to end,
one dataset per column, N rows in all, E episodes:
  obs/image  (N, C, Y, X) uint8     action    (N, A) float32: one-hot rows, or values in [-1, 1]
  reward     (N) float32            terminal  (N) bool: the episode ended there for good
  lengths    (E) int64, rows of each episode; their sum is N
Row t holds the action taken at obs[t] and the reward received on arriving there. Attributes of the file:
format = 'isochrone-episodes', version = 1, action_kind = 'discrete' or 'continuous'.
Other formats: `isochrone list format`.
"""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "data",
        [
            "collect RECIPE --out RECORDING [--OPTION VALUE ...]",
            "convert SOURCE --out RECORDING [--layout NAME] [--key NAME] [--size PIXELS] [--cut ROWS]",
            "validate RECORDING [--recipe RECIPE [--OPTION VALUE ...]] [--json]",
            "info RECORDING [--json]",
        ],
        "collect   record complete episodes of the recipe's environment with its random policy\n"
        "convert   turn a recording of another library into ours (docs/data.md); says what was done and left out\n"
        "validate  read every row once; report what is in the recording, or what is wrong and where, and which recipes "
        "can be trained on it\n"
        "info      describe the recording without reading the rows",
        EXAMPLES,
    )
    out.config_options = config_heads()
    out.add_argument("words", nargs="*", metavar="collect|convert|validate|info", help="then a recipe or a recording")
    out.add_argument("--out", metavar="RECORDING", help="where to write; the suffix chooses the format")
    out.add_argument("--recipe", metavar="RECIPE", help="validate: check for this recipe and options of it only")
    out.add_argument("--layout", metavar="NAME", help="convert: how SOURCE is laid out (default: detected)")
    out.add_argument("--key", metavar="NAME", help="convert: the picture that becomes 'image', where there are several")
    out.add_argument("--size", type=int, metavar="PIXELS", help="convert: pixels per side of the image")
    out.add_argument("--cut", type=int, metavar="ROWS", help="convert: cut longer episodes into pieces of so many rows")
    out.add_json()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0, or 2 for a recording that cannot be used."""
    action, words = (args.words or [""])[0], args.words[1:]
    if action not in ACTIONS:
        raise UserError(f"isochrone data has no '{action}'{did_you_mean(action, ACTIONS)}")
    own = {name for options in OPTIONS.values() for name in options}
    given = [name for name in sorted(own) if getattr(args, name) not in (None, False)]
    wrong = [name for name in given if name not in OPTIONS[action]]
    if wrong or (changes and not (action == "collect" or args.recipe)):
        option = next(iter([*wrong, *changes]))
        raise UserError(
            f"unknown option '--{option}' of isochrone data {action}{did_you_mean(option, OPTIONS[action])}"
        )
    if action == "collect":
        return _collect(one(words, "recipe", "zhp"), args.out, changes)
    if action == "convert":
        return _convert(full_path(one(words, "recording", "halfcheetah.hdf5"), "recording"), args)
    path = full_path(one(words, "recording", "my.h5"), "recording")
    return _validate(path, args.recipe, changes, args.json) if action == "validate" else _info(path, args.json)


def _info(path: Path, as_json: bool) -> int:
    from isochrone.data.source import describe

    _show(describe(path), as_json)
    return 0


def _validate(path: Path, recipe: str | None, changes: dict[str, str], as_json: bool) -> int:
    from isochrone.workflows.recording import validate

    facts = validate(path, recipe, changes)
    _show(facts, as_json)
    if not as_json:
        recipes = [*(name for name in facts["recipes"] if name == "zhp"), *facts["recipes"]]
        show(f"{path} can be used for training: isochrone train {recipes[0]} --data {path}")
    return 0


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(facts)
    else:
        show_table((key, _text(value)) for key, value in facts.items())


def _convert(source: Path, args: argparse.Namespace) -> int:
    from isochrone.data.convert import convert

    if args.out is None:
        raise UserError(f"say where to write: isochrone data convert {source} --out FILE.h5")
    for line in convert(source, output_file(args.out, "--out"), args.layout, args.key, args.size, args.cut):
        show(line)
    return 0


def _collect(recipe: str, out: str | None, changes: dict[str, str]) -> int:
    from isochrone.data.source import open_format, size_of
    from isochrone.workflows import dataset
    from isochrone.workflows.factory import make_config

    if out is None:
        raise UserError("say where to write: isochrone data collect RECIPE --out FILE.h5")
    path = output_file(out, "--out")
    form = open_format(path)
    if path.exists():
        raise UserError(f"{path} exists already: choose another name, or delete it first")
    config = make_config(recipe, changes)
    if config.data.path is not None:
        raise UserError(f"--data {config.data.path}: collecting records new episodes; leave it out")
    replay = dataset.fill_replay(config, None)
    count = form.write(path, dataset.complete_episodes(replay), replay.spec)
    show(printable(f"{count} episodes in {path}, {size_of(path) / 1e6:.1f} MB"))
    return 0


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        if any(" " in str(v) for v in value):
            return ", ".join(map(str, value))
        return " ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value) or "-"
    return str(value)
