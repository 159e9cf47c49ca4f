"""isochrone study: a grid of trainings, and its table."""

from __future__ import annotations

from isochrone.cli.words import asks_help, say, show_json, split
from isochrone.core.errors import UserError, nearest

USAGE = """isochrone study [NAME] [--cells] [--jobs N] [--json]

A study is a grid of cells, config by seed. Runs the cells that have no result yet, --jobs of them at a time (default
2), stores one small JSON per cell under studies/NAME/results/, prints the table with intervals and writes its rows
into docs/evidence.md. Without NAME: which studies there are. --cells lists the cells and what is missing.

  isochrone study
  isochrone study whitebox --cells
  isochrone study whitebox --jobs 2
"""


def command(words: list[str]) -> int:
    """0 when every cell has its result."""
    if asks_help(words):
        print(USAGE, end="")
        return 0
    asked = split(words, ("cells", "json"))
    asked.only("jobs")
    from isochrone.studies import runner

    known = runner.names()
    if not asked.given:
        print("\n".join(known))
        return 0
    name = asked.one("study", "whitebox")
    if name not in known:
        raise UserError(f"no study called '{name}'{nearest(name, known)}")
    if "cells" in asked.switches:
        cells = runner.cells(name)
        if "json" in asked.switches:
            show_json(cells)
        else:
            for cell in cells:
                print(f"{cell['state']:<8}{cell['cell']}")
        return 0
    try:
        jobs = int(asked.options.get("jobs", "2"))
    except ValueError:
        raise UserError(f"--jobs {asked.options['jobs']}: must be a whole number") from None
    print(runner.run(name, jobs, say))
    return 0
