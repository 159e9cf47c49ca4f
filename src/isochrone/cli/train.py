"""isochrone train: a recipe in a new run folder, or a run resumed."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isochrone.cli.args import Parser, config_heads, one, option_lines
from isochrone.cli.output import show
from isochrone.core.errors import UserError
from isochrone.core.paths import full_path

if TYPE_CHECKING:
    from isochrone.recipes.schema import Config
    from isochrone.workflows.train import Training

log = logging.getLogger(__name__)
EXAMPLES = """\
  isochrone train tiny
  isochrone train zhp --run runs/a --train.steps 2000 --loss.vicreg 0
  isochrone train zhp --env whitebox:four-rooms
  isochrone train zhp --env.map-file my-map.txt
  isochrone train zhp --data my.h5
  isochrone train zhp --model my_package.my_module:MyModel

Every value of the recipe is an option; `isochrone train RECIPE --help` lists them with their values. Often used:
  --env NAME:SHORTHAND    the environment: whitebox:MAP (isochrone list map), gym:ID
  --env.map-file FILE     a map of your own as a text file
  --data RECORDING        train on a recording (isochrone data --help)
  --train.steps N         optimiser steps
  --train.seed N          seed of all random numbers
  --train.threads N       CPU threads (default 1)
  --train.accelerator X   auto, cpu or cuda; --train.precision bf16-mixed saves memory there
  --loss.NAME W           weight of a loss; 0 leaves it out (isochrone list loss); also --loss.NAME.start,
                          --loss.NAME.stop and --loss.NAME.settings.OPTION
  --then eval,report      commands to run after training
"""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "train",
        [
            "RECIPE [--run DIR] [--data RECORDING] [--OPTION VALUE ...]",
            "--resume RUN [--trust] [--restart] [--train.accelerator X --train.device N --train.threads N]",
        ],
        "Trains RECIPE in a new run folder (default: the first free runs/RECIPE-N) and shows rate, time left and "
        "losses. A folder that holds a run is never overwritten. Ctrl-C stops with a checkpoint; --resume continues "
        "from it and ends with the same weights, bit for bit on a CPU, as an uninterrupted run; it may go on on "
        "another device.",
        EXAMPLES,
        add_help=False,
    )
    out.config_options = config_heads()
    out.add_argument("recipe", nargs="*", metavar="RECIPE", help="see `isochrone list recipe`")
    out.add_argument("--run", metavar="DIR", help="the run folder to create")
    out.add_argument("--resume", metavar="RUN", help="a run folder to continue")
    out.add_argument("--restart", action="store_true", help="with --resume: at step 0; old checkpoints are kept aside")
    out.add_argument("--allow-dead-losses", action="store_true", help="only warn of a refused or dead loss")
    out.add_argument("-h", "--help", action="store_true", help="show this; after RECIPE: list its options")
    out.add_trust()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0 when training is complete; 130 after Ctrl-C, 128 + N after signal N; each with a checkpoint."""
    if args.help:
        return _help(args, changes)
    from isochrone.workflows import train

    if args.resume is not None:
        return _resume(args, changes)
    if args.restart:
        raise UserError("--restart belongs to --resume: isochrone train --resume RUN --restart")
    name = one(args.recipe, "recipe", "tiny")
    config = _config(name, args, changes)
    path = train.free_folder(Path("runs"), name) if args.run is None else full_path(args.run, "--run")
    args.run = str(path)  # where a traceback would go
    return _finish(train.create_run(config, path))


def _config(name: str, args: argparse.Namespace, changes: dict[str, str]) -> Config:
    from isochrone.workflows.factory import make_config

    return make_config(name, changes | ({"allow_dead_losses": "true"} if args.allow_dead_losses else {}))


def _resume(args: argparse.Namespace, changes: dict[str, str]) -> int:
    from isochrone.workflows import train

    options = [f"--{key.replace('_', '-')}" for key in ("run", "allow_dead_losses") if getattr(args, key)]
    if args.recipe or options:
        extra = " ".join([*args.recipe, *options, *(f"--{key}" for key in changes)])
        raise UserError(f"a run is resumed with its own config: leave out {extra}")
    return _finish(train.resume(full_path(args.resume, "--resume"), args.trust, changes, restart=args.restart), changes)


def _finish(training: Training, resumed_with: Mapping[str, str] | None = None) -> int:
    """Train, report the end, and run the commands that follow, on the same device; the exit code."""
    from isochrone import cli

    path, config = training.run.path, training.config
    log.info("run %s: recipe %s", path, config.recipe)
    with training:
        done = training.fit()
    if done.signal:
        log.info("stopped by %s after step %d; checkpoint %s is complete", done.signal, done.step, done.checkpoint.name)
        log.info("continue: isochrone train --resume %s", path)
        return 128 + signal.Signals[done.signal]
    already = " (it already was)" if done.began == done.step else ""
    log.info("step %d of %d: training is complete%s", done.step, config.train.steps, already)
    if not config.then:
        log.info("next: isochrone eval %s", path)
    for command in config.then:
        device = [] if command == "report" else [f"--{name}={value}" for name, value in (resumed_with or {}).items()]
        code = cli.run([command, str(path), *device])
        if code:
            return code
    return 0


def _help(args: argparse.Namespace, changes: dict[str, str]) -> int:
    from isochrone.core import registry

    if not args.recipe:
        parser().print_help()
        return 0
    config = _config(one(args.recipe, "recipe", "tiny"), args, changes)
    text = str(registry.get("recipe", args.recipe[0]).__doc__).split("\n")[0]
    show(f"isochrone train {config.recipe} [--run DIR] [--OPTION VALUE ...]\n\n{text}\n")
    show("\n".join(option_lines(config)))
    return 0
