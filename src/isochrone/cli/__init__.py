"""The command line: `isochrone COMMAND ...`. A command's imports wait until it is run, so that --help is fast."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

COMMANDS = {
    "train": "train a recipe in a run folder, or resume a run",
    "eval": "measure a trained run: prediction, perception, reachability, planning",
    "plan": "plan from one place to another, execute the plan, and write a GIF of it",
    "report": "write report.html of a run: one file that needs no network",
    "routes": "which loss moves which weights, declared and measured",
    "data": "record episodes, and check or describe recordings",
    "list": "list recipes, maps, losses, planners, ...",
    "doctor": "check this machine and installation",
    "completion": "print a completion script for bash, zsh or fish",
}
MODULES = {"eval": "evaluate", "list": "listing"}
"""Modules of the commands that are not called like their command."""
HELP = """usage: isochrone COMMAND [options]

World models whose geometry you can plan in.

commands:
{commands}

examples:
  isochrone train tiny              a first model, map, plan and report within a minute
  isochrone train zhp --run runs/a  the best model; then eval, plan and report runs/a
  isochrone COMMAND --help          options of a command, with examples
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 bad input (one sentence on standard error), 130 on Ctrl-C."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(words: Sequence[str]) -> int:
    """The exit code of one command."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())), end="")
        return 0 if words else 2
    if words[0] == "--version":
        from isochrone import __version__

        print(f"isochrone {__version__}")
        return 0
    from isochrone.core.errors import UserError

    log_to_stderr()
    try:
        command = module_of(words[0])
        args, changes = command.parser().parse(words[1:])
        return command.run(args, changes)
    except SystemExit as stop:  # argparse has printed --help
        return int(stop.code or 0)
    except UserError as error:
        sys.stdout.flush()
        print(f"isochrone: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("isochrone: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def module_of(name: str) -> ModuleType:
    """The module of a command: `parser() -> Parser` and `run(arguments, changes of the config) -> exit code`."""
    if name not in COMMANDS:
        from isochrone.core.errors import UserError, did_you_mean

        raise UserError(f"no command called '{name}'{did_you_mean(name, COMMANDS)}")
    return import_module(f"isochrone.cli.{MODULES.get(name, name)}")


class StderrHandler(logging.Handler):
    """Log messages as plain lines on standard error, so that standard output only holds results."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        print(f"{prefix}{record.getMessage()}", file=sys.stderr, flush=True)


def log_to_stderr() -> None:
    """Show the progress messages of the library, once however often it is called."""
    log = logging.getLogger("isochrone")
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
    log.setLevel(logging.INFO)
