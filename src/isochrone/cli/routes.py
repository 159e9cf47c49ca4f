"""isochrone routes: which loss moves which weights."""

from __future__ import annotations

import argparse
import logging

from isochrone.cli.args import Parser, config_heads, one, output_file, show_json
from isochrone.cli.output import show
from isochrone.core.errors import UserError

log = logging.getLogger(__name__)
EXAMPLES = """\
  isochrone routes zhp
  isochrone routes zhp --model.stop-grad-to-encoder false
  isochrone routes --all --write docs/routes.md

Exit code 1 when a loss moves a group that it does not declare, or declares one that it does not move.
The same check in Python: isochrone.check_routes.
"""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "routes",
        ["RECIPE [--json] [--OPTION VALUE ...]", "--all [--write FILE.md]"],
        "Shows for every loss of a recipe the groups of weights that it declares to move and those that receive a "
        "gradient from it, measured on small batches of the recipe's environment.",
        EXAMPLES,
    )
    out.config_options = config_heads()
    out.add_argument("recipe", nargs="*", metavar="RECIPE", help="see `isochrone list recipe`")
    out.add_argument("--all", action="store_true", help="Markdown tables of every recipe")
    out.add_argument("--write", metavar="FILE.md", help="write them to a file")
    out.add_json()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0, or 1 when a declaration is wrong."""
    from isochrone.workflows import routes
    from isochrone.workflows.factory import make_config

    if args.all:
        return _all_recipes(args, changes)
    if args.write is not None:
        raise UserError("--write belongs to --all: isochrone routes --all --write docs/routes.md")
    name = one(args.recipe, "recipe", "zhp")
    report = routes.measure_routes(make_config(name, changes))
    if args.json:
        declared = {loss: sorted(groups) for loss, groups in report.declared.items()}
        show_json({"declared": declared, "measured": report.moved, "faults": report.violations()})
        return int(bool(report.violations()))
    show(routes.to_text(report))
    if name == routes.ORIGINAL_RECIPE:
        show("\nBeside the original design (docs/background.md)\n\n" + routes.comparison_text(report))
    for fault in report.violations():
        show(f"fault: {fault}")
    return int(bool(report.violations()))


def _all_recipes(args: argparse.Namespace, changes: dict[str, str]) -> int:
    from isochrone.core import registry
    from isochrone.core.files import atomic_write
    from isochrone.workflows import routes
    from isochrone.workflows.factory import make_config

    if changes or args.recipe:
        raise UserError("--all shows every recipe as it is: leave out recipes and their options")
    out = None if args.write is None else output_file(args.write, "--write")
    page = routes.to_page({name: routes.measure_routes(make_config(name)) for name in registry.components("recipe")})
    if out is not None:
        atomic_write(out, page)
        log.info("wrote %s", out)
    else:
        show(page, end="")
    return 0
