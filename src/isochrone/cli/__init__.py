"""The command line: `isochrone COMMAND ...`. A command's imports wait until it is run, so that --help is fast."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import warnings
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
_caught: list[int] = []
"""Signals that this process has received."""
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
    """Run one command and exit.

    0: done; 1: a check has failed, or something unexpected happened (the sentence names the file with the traceback);
    2: bad input; 130: Ctrl-C; 128 + N: ended by signal N.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        catch_signals()
        from isochrone.cli.crash import watch_threads
        from isochrone.cli.output import open_streams

        open_streams()
        watch_threads(words)
        os.environ["MPLBACKEND"] = "Agg"  # figures are written, never shown
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # they are for developers: python -W default shows them
        code = run(words)
        if code:  # the reason has been said; what fails now fails because of it
            sys.unraisablehook = threading.excepthook = lambda args: None
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on there is nothing left to tidy up
    except KeyboardInterrupt as stop:
        code = _stopped(stop.args)
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """The exit code of one command. Whatever goes wrong is one sentence on standard error."""
    from isochrone.cli.output import drop_results, only_results, reader_is_gone, results

    args = argparse.Namespace()
    with only_results():
        try:
            code = _run(words, args)
            results().flush()
            return code
        except SystemExit as stop:  # argparse has printed --help; a library may exit with anything
            return 0 if stop.code in (None, 0) else _report(stop, words, args)
        except KeyboardInterrupt as stop:
            return _stopped(stop.args)
        except Exception as error:
            if _caught:  # a module that was interrupted while it was imported may raise any error
                return _stopped(_caught)
            if isinstance(error, BrokenPipeError) and reader_is_gone(results()):  # head or less has seen enough
                drop_results()
                return 0
            return _report(error, words, args)


def catch_signals() -> None:
    """End a command in order, workers and temporary files included, on every signal that would end it anyway."""
    from isochrone.training.signals import NAMES

    def stop(number: int, frame: object) -> None:
        _caught.append(number)
        raise KeyboardInterrupt(number)

    for name in NAMES:
        kind = getattr(signal, name, None)  # Windows has only the first two
        if kind is not None and signal.getsignal(kind) is not signal.SIG_IGN:  # nohup, a job in the background
            signal.signal(kind, stop)


def _stopped(numbers: Sequence[int]) -> int:
    """Print which signal ended the command; the exit code."""
    kind = signal.Signals(numbers[0] if numbers else signal.SIGINT)
    what = "interrupted" if kind is signal.SIGINT else f"stopped by {kind.name}"
    print(f"isochrone: {what}", file=sys.stderr)
    return 128 + kind


def _run(words: Sequence[str], args: argparse.Namespace) -> int:
    """Run a command, and put its arguments into `args` as soon as they are known."""
    from isochrone.cli.output import show

    if not words or words[0] in ("-h", "--help", "help"):
        show(HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())), end="")
        return 0 if words else 2
    if words[0] == "--version":
        from isochrone import __version__

        show(f"isochrone {__version__}")
        return 0
    log_to_stderr()
    command = module_of(words[0])
    return command.run(*command.parser().parse(words[1:], args))


def _report(error: BaseException, words: Sequence[str], args: argparse.Namespace) -> int:
    """Print the sentence about an error; the exit code."""
    from isochrone.cli import crash
    from isochrone.cli.output import drop_results, results
    from isochrone.core.errors import UserError, printable

    try:
        results().flush()
    except (OSError, ValueError):
        drop_results()
    run = crash.run_folder(args)
    if isinstance(error, UserError):
        notes = "\n".join(getattr(error, "__notes__", ()))  # the traceback of a simulator, for example
        more = f"; {crash.store(notes, run, words)}" if notes else ""
        print(f"isochrone: {printable(' '.join(str(error).split()))}{more}", file=sys.stderr)
        return 2
    print(f"isochrone: {crash.report(error, run, words)}", file=sys.stderr)
    return 1


def module_of(name: str) -> ModuleType:
    """The module of a command: `parser() -> Parser` and `run(arguments, changes of the config) -> exit code`."""
    if name not in COMMANDS:
        from isochrone.core.errors import UserError, did_you_mean

        raise UserError(f"no command called '{name}'{did_you_mean(name, COMMANDS)}")
    return import_module(f"isochrone.cli.{MODULES.get(name, name)}")


class StderrHandler(logging.Handler):
    """Log messages as plain lines on standard error, so that standard output only holds results."""

    def emit(self, record: logging.LogRecord) -> None:
        from isochrone.core.errors import printable

        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        text = "\n".join(printable(line) for line in record.getMessage().splitlines())
        print(f"{prefix}{text}", file=sys.stderr, flush=True)


def log_to_stderr() -> None:
    """Show the progress messages of the library, once however often it is called."""
    log = logging.getLogger("isochrone")
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
    log.setLevel(logging.INFO)
