"""isochrone report: one HTML file about a run."""

from __future__ import annotations

from pathlib import Path

from isochrone.cli.words import asks_help, say, split

USAGE = """isochrone report RUN

Writes RUN/report.html from what lies in RUN and prints its path: the isochrone map, the four questions with their
numbers, intervals, floors and pictures, training curves, gradient routes, config and versions. One file, no script,
nothing fetched. Run `isochrone eval RUN` first: the report shows what was measured last.

  isochrone report runs/a
"""


def command(words: list[str]) -> int:
    """0."""
    if asks_help(words):
        print(USAGE, end="")
        return 0
    asked = split(words, ())
    asked.only()
    from isochrone.workflows.report import report

    path = Path(asked.one("run folder", "runs/tiny-1"))
    made = report(path)
    if not (path / "results.json").exists():
        say(f"nothing was measured yet: isochrone eval {path}, then report again")
    print(made)
    return 0
