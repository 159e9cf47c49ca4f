"""isochrone report: one HTML file about a run."""

from __future__ import annotations

import argparse
import logging

from isochrone.cli.args import Parser, output_file, run_folder
from isochrone.cli.output import show
from isochrone.core.errors import printable

log = logging.getLogger(__name__)


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "report",
        ["RUN [--out FILE.html] [--trust]"],
        "Writes RUN/report.html from the files in RUN and prints its path: the isochrone map, the metrics with "
        "intervals, baselines and figures, training curves, gradient routes, config and versions. One file, "
        "no script, no network. Run `isochrone eval RUN` first: the report shows the newest results.",
        "  isochrone report runs/a",
    )
    out.add_argument("run", nargs="*", metavar="RUN", help="run folder")
    out.add_argument("--out", metavar="FILE.html", help="default: RUN/report.html")
    out.add_trust()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0."""
    from isochrone.workflows.report import report

    path = run_folder(args)
    page = report(path, trust=args.trust, out=None if args.out is None else output_file(args.out, "--out"))
    if not (path / "results.json").exists():
        log.info("no results yet: isochrone eval %s, then report again", path)
    show(printable(str(page)))
    return 0
