"""isochrone train: a recipe in a new run folder, or a run continued."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import fill

from isochrone.cli.words import Words, asks_help, option_lines, say, split
from isochrone.core.errors import UserError

ALLOW = "allow-dead-losses"

USAGE = """isochrone train RECIPE [--run DIR] [--data FILE.h5] [--OPTION VALUE ...]
isochrone train --resume RUN

Trains RECIPE in a new run folder (default: the first free runs/RECIPE-N) and shows rate, time left and losses.
A folder that holds a run is never overwritten. Ctrl-C ends with a checkpoint; --resume goes on from there, and
ends with the same weights, bit for bit on a CPU, as a run that was never stopped.

  isochrone train tiny
  isochrone train zhp --run runs/a --train.steps 2000 --loss.vicreg 0
  isochrone train zhp --env whitebox:four-rooms
  isochrone train zhp --env.map-file my-map.txt
  isochrone train zhp --data my.h5

Every value of the recipe is an option. Often used:

  --env NAME:MAIN         the world: whitebox:MAP (isochrone list map), gym:ID
  --env.map-file FILE     a text drawing of your own
  --data FILE.h5          train on a recording (isochrone data --help)
  --train.steps N         optimiser steps
  --train.seed N          every random draw follows from it
  --train.threads N       CPU threads (default 1)
  --train.accelerator X   auto, cpu or cuda; --train.precision bf16-mixed saves memory there
  --loss.NAME W           weight of a loss; 0 leaves it out (isochrone list loss); also --loss.NAME.start,
                          --loss.NAME.stop and --loss.NAME.settings.OPTION
  --allow-dead-losses     train although a loss is refused or has no effect

`isochrone train RECIPE --help` lists all options with their values in that recipe.
{recipes}
"""


def command(words: list[str]) -> int:
    """0 when training is complete, 130 after Ctrl-C (143 after SIGTERM), each with a checkpoint."""
    if asks_help(words):
        return _help(split([w for w in words if w not in ("-h", "--help")], (ALLOW,)))
    asked = split(words, (ALLOW,))
    if "resume" in asked.options:
        return _resume(asked)
    from isochrone.workflows import build, train

    name = asked.one("recipe", "tiny")
    changes = asked.without("run") | ({"allow_dead_losses": "true"} if ALLOW in asked.switches else {})
    config = build.recipe(name, changes)
    path = Path(asked.options["run"]) if "run" in asked.options else train.free_folder(Path("runs"), name)
    run, _, total = train.begin(config, path)
    with run:
        code = _train(run, config, total)
    return code or _finish(path, config.then)


def _resume(asked: Words) -> int:
    from isochrone.workflows import train

    if asked.given or asked.without("resume") or asked.switches:
        extra = [*asked.given, *(f"--{k}" for k in asked.without("resume")), *(f"--{s}" for s in asked.switches)]
        raise UserError(f"a run continues with the config that it began with: leave out {' '.join(extra)}")
    path = Path(asked.options["resume"])
    run, config, total = train.again(path)
    with run:
        code = _train(run, config, total)
    return code or _finish(path, config.then)


def _train(run, config, total) -> int:
    """Train with every sink at hand; the exit code."""
    from isochrone.train.console import Console
    from isochrone.train.sinks import open_sinks
    from isochrone.workflows import train

    say(f"run {run.path}: recipe {config.recipe}")
    console = Console(Console.Config(), run, config.train.steps)
    sinks = open_sinks(["jsonl", *_tensorboard()], run, config.train.steps)
    try:
        done = train.train(run, config, total, [*sinks, console], say, console.tick)
    finally:
        for sink in (*sinks, console):
            sink.close()
    if done.signal:
        say(f"stopped by {done.signal} after step {done.step}; checkpoint {done.checkpoint.name} is complete.")
        say(f"continue: isochrone train --resume {run.path}")
        return 130 if done.signal == "SIGINT" else 143
    already = " (it already was)" if done.began == done.step else ""
    say(f"step {done.step} of {config.train.steps}: training is complete{already}")
    if not config.then:
        say(f"next: isochrone eval {run.path}")
    return 0


def _tensorboard() -> list[str]:
    from importlib.util import find_spec

    return ["tensorboard"] if find_spec("tensorboard") else []


def _finish(path: Path, tasks: tuple[str, ...]) -> int:
    """What the recipe goes on to do."""
    from isochrone.cli import run

    for task in tasks:
        code = run([task, str(path)])
        if code:
            return code
    return 0


def _help(asked: Words) -> int:
    from isochrone.core import registry
    from isochrone.workflows import build

    if not asked.given:
        names = fill(", ".join(registry.names("recipe")), 110, initial_indent="Recipes: ", subsequent_indent="  ")
        sys.stdout.write(USAGE.format(recipes=names))
        return 0
    config = build.recipe(asked.one("recipe", "tiny"), asked.without("run"))
    says = str(registry.get("recipe", config.recipe).__doc__).split("\n")[0]
    print(f"isochrone train {config.recipe} [--run DIR] [--OPTION VALUE ...]\n\n{says}\n")
    print("\n".join(option_lines(config)))
    return 0
