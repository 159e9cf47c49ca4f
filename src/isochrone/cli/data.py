"""isochrone data: record episodes, check and describe recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isochrone.cli.words import Words, asks_help, say, show_json, split
from isochrone.core.errors import UserError, did_you_mean

USAGE = """isochrone data collect RECIPE --out FILE.h5 [--OPTION VALUE ...]
isochrone data validate FILE.h5 [--json]
isochrone data info FILE.h5 [--json]

collect   records whole episodes of the recipe's world with its random policy
validate  reads every row once; says what is in the file, or what is wrong and where
info      what the file says about itself, without reading the rows

  isochrone data collect zhp --out my.h5 --data.num-envs 16 --data.rows 505
  isochrone data validate my.h5
  isochrone train zhp --data my.h5

A recording is an HDF5 file: episodes end to end, one dataset per column, N rows in all, E episodes.

  obs/image  (N, C, Y, X) uint8     action    (N, A) float32: one-hot rows, or values in [-1, 1]
  reward     (N) float32            terminal  (N) bool: the episode ended there for good
  lengths    (E) int64, rows of each episode; their sum is N

Row t holds the action taken at obs[t] and the reward received on arriving there. Attributes of the file:
format = 'isochrone-episodes', version = 1, action_kind = 'discrete' or 'continuous'.
"""
COMMANDS = ("collect", "validate", "info")


def command(words: list[str]) -> int:
    """0, or 2 for a file that cannot be used."""
    if asks_help(words) or not words:
        print(USAGE, end="")
        return 0 if words else 2
    name, asked = words[0], split(words[1:])
    if name not in COMMANDS:
        raise UserError(f"isochrone data has no '{name}'{did_you_mean(name, COMMANDS)}")
    if name == "collect":
        return _collect(asked)
    asked.only()
    from isochrone.data.source import open_format

    path = Path(asked.one("recording", "my.h5"))
    form = open_format(path)
    found = form.validate(path) if name == "validate" else _info(form, path)
    if "json" in asked.switches:
        show_json(found)
    else:
        for key, value in found.items():
            print(f"{key:<12}{_written(value)}")
        if name == "validate":
            print(f"{path} is fit for training: isochrone train zhp --data {path}")
    return 0


def _info(form: Any, path: Path) -> dict[str, Any]:
    lengths, spec = form.lengths(path), form.read(path)[0]
    return {
        "episodes": len(lengths),
        "rows": int(lengths.sum()),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "obs": {name: list(shape) for name, shape in spec.obs.items()},
        "action": {"kind": spec.action.kind, "size": spec.action.size, "names": list(spec.action.names)},
        "bytes": path.stat().st_size,
    }


def _collect(asked: Words) -> int:
    from isochrone.data.source import open_format
    from isochrone.workflows import build

    if "out" not in asked.options:
        raise UserError("say where to: isochrone data collect RECIPE --out FILE.h5")
    out = Path(asked.options["out"])
    form = open_format(out)
    if out.exists():
        raise UserError(f"{out} is there already: choose another name, or delete it first")
    config = build.recipe(asked.one("recipe", "zhp"), asked.without("out"))
    if config.data.path is not None:
        raise UserError(f"--data {config.data.path}: collecting records new episodes; leave it out")
    replay = build.fill_replay(config, None, say)
    count = form.write(out, build.complete_episodes(replay), replay.spec)
    print(f"{count} episodes in {out}, {out.stat().st_size / 1e6:.1f} MB")
    return 0


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_written(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value) or "-"
    return str(value)
