"""The command line: `isochrone COMMAND ...`. Thin: it reads words, calls, prints; a command imports what it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a recipe in a run folder, or continue a run",
    "eval": "measure a trained run: prediction, perception, reachability, planning",
    "plan": "plan from one place to another, play it, and make a GIF of it",
    "report": "write report.html of a run: one file, no network needed",
    "routes": "which loss moves which weights, declared and measured",
    "data": "record episodes, and check or describe recordings",
    "list": "what there is: recipes, maps, losses, planners, ...",
    "doctor": "check this machine and installation",
}

HELP = """isochrone: world models whose geometry you can plan in.

  isochrone COMMAND [options]

{commands}

Begin with

  isochrone train tiny              a first model, map, plan and report within a minute
  isochrone train zhp --run runs/a  the real thing; then eval, plan and report runs/a
  isochrone COMMAND --help          what a command takes, with examples
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 done, 2 bad input (one sentence says which), 130 on Ctrl-C."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(words: list[str]) -> int:
    """The exit code of one command."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"isochrone {sys.modules['isochrone'].__version__}")
        return 0
    from isochrone.core.errors import UserError

    try:
        return _call(words[0], words[1:])
    except UserError as error:
        sys.stdout.flush()
        print(f"isochrone: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("isochrone: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def overview() -> str:
    """What `isochrone --help` prints."""
    return HELP.format(commands="\n".join(f"  {name:<8} {says}" for name, says in COMMANDS.items()))


def _call(name: str, words: list[str]) -> int:
    # written out, so that each command's imports wait until it is called
    if name == "train":
        from isochrone.cli.train import command
    elif name == "eval":
        from isochrone.cli.evaluate import command
    elif name == "plan":
        from isochrone.cli.plan import command
    elif name == "report":
        from isochrone.cli.report import command
    elif name == "routes":
        from isochrone.cli.routes import command
    elif name == "data":
        from isochrone.cli.data import command
    elif name == "list":
        from isochrone.cli.listing import command
    elif name == "doctor":
        from isochrone.cli.doctor import command
    else:
        from isochrone.core.errors import UserError, did_you_mean

        raise UserError(f"no command called '{name}'{did_you_mean(name, COMMANDS)}")
    return command(words)
