"""isochrone study: a grid of trainings, and its table."""

from __future__ import annotations

from isochrone.cli.words import asks_help, say, show_json, split
from isochrone.core.errors import UserError, did_you_mean

USAGE = """isochrone study [NAME] [--cells] [--table] [--jobs N] [--fresh] [--json]

A study is a grid of cells, config by seed. Runs the cells that have no result yet, --jobs of them at a time (default
2), stores one small JSON per cell under studies/NAME/results/, prints the table with intervals and writes its rows
into docs/evidence.md. A cell that was stopped goes on where it was. Without NAME: which studies there are.

  isochrone study
  isochrone study whitebox --cells
  isochrone study whitebox --jobs 2

  --cells   list the cells, and which are done, missing or stale (measured with another config); run nothing
  --table   the table and docs/evidence.md from what is measured; run nothing
  --jobs N  cells that run at the same time, each in one process of one thread
  --fresh   run stale cells again
"""


def command(words: list[str]) -> int:
    """0, or 1 when cells that were asked for have no result."""
    if asks_help(words):
        print(USAGE, end="")
        return 0
    asked = split(words, ("cells", "table", "fresh", "json"))
    asked.only("jobs")
    from studies.harness import runner

    known = runner.names()
    if not asked.given:
        print("\n".join(known))
        return 0
    name = asked.one("study", "whitebox")
    if name not in known:
        raise UserError(f"no study called '{name}'{did_you_mean(name, known)}")
    if "cells" in asked.switches:
        cells = runner.cells(name)
        if "json" in asked.switches:
            show_json(cells)
        else:
            for cell in cells:
                print(f"{cell['state']:<8}{cell['cell']}")
        return 0
    if "table" in asked.switches:
        print(runner.table(name))
        return 0
    try:
        jobs = int(asked.options.get("jobs", "2"))
    except ValueError:
        raise UserError(f"--jobs {asked.options['jobs']}: must be a whole number") from None
    print(runner.run(name, jobs, say, fresh="fresh" in asked.switches))
    return int(any(cell["state"] == "missing" for cell in runner.cells(name)))
