"""Command line of the studies: `python -m studies` in a clone."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from isochrone.core.errors import UserError
from studies.harness import runner, study

DESCRIPTION = """\
A study is a grid of cells: a configuration and a seed each. This runs the cells without a result, stores one small
JSON file per cell under studies/NAME/results/, prints the table, and writes docs/evidence.md and
docs/evidence/NAME.md. A cell that was stopped resumes from its last checkpoint.
"""
EXAMPLES = """\
  python -m studies                     list the studies
  python -m studies whitebox --cells    which cells are done, missing or stale
  python -m studies whitebox --jobs 2   run what is missing
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(
        prog="python -m studies",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("name", nargs="?", help="a study; without it, all studies are listed")
    only = out.add_mutually_exclusive_group()
    only.add_argument("--cells", action="store_true", help="list the cells and their states; run nothing")
    only.add_argument("--table", action="store_true", help="write the pages and print the table; run nothing")
    out.add_argument("--jobs", type=int, default=2, metavar="N", help="cells that run at the same time (default 2)")
    out.add_argument("--fresh", action="store_true", help="run stale cells again (measured with another configuration)")
    out.add_argument("--json", action="store_true", help="print names or cells as JSON")
    return out


def main(argv: Sequence[str]) -> int:
    """The exit code: 0, 1 when requested cells have no result, 2 for invalid input, 130 when stopped."""
    args = parser().parse_args(argv)
    root = study.find_root()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if args.name is None:
            names = study.names(root)
            print(json.dumps(names) if args.json else "\n".join(names))
        elif args.cells:
            cells = runner.cells(args.name, root)
            print(json.dumps(cells, indent=1) if args.json else "\n".join(f"{c['state']:<8}{c['cell']}" for c in cells))
        elif args.table:
            print(runner.table(args.name, root))
        else:
            print(runner.run(args.name, root, args.jobs, args.fresh))
            return int(any(cell["state"] == "missing" for cell in runner.cells(args.name, root)))
    except UserError as error:
        print(f"studies: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
