"""isochrone routes: which loss moves which weights."""

from __future__ import annotations

from pathlib import Path

from isochrone.cli.words import asks_help, say, show_json, split
from isochrone.core.errors import UserError

USAGE = """isochrone routes RECIPE [--json] [--OPTION VALUE ...]
isochrone routes --all [--write FILE.md]

Shows for every loss of a recipe the groups of weights that it declares to move and those that autograd found it to
move, on small batches of the recipe's own world. For zhp_original also the table of the notes it follows.

  isochrone routes zhp
  isochrone routes zhp --model.stop-grad-to-encoder false
  isochrone routes --all --write docs/routes.md

Exit code 1 when a loss moves what it does not declare, or declares what it does not move.
The same check for your own code: from isochrone import check_routes (see the README).
"""


def command(words: list[str]) -> int:
    """0, or 1 when a declaration is wrong."""
    if asks_help(words):
        print(USAGE, end="")
        return 0
    asked = split(words, ("json", "all"))
    from isochrone.core import registry
    from isochrone.core.files import atomic_write
    from isochrone.workflows import build, routes

    if "all" in asked.switches:
        asked.only("write")
        text = routes.page({name: routes.routes_of(build.recipe(name)) for name in registry.names("recipe")})
        if "write" in asked.options:
            atomic_write(Path(asked.options["write"]), text)
            say(f"written: {asked.options['write']}")
        else:
            print(text, end="")
        return 0
    if "write" in asked.options:
        raise UserError("--write belongs to --all: isochrone routes --all --write docs/routes.md")
    name = asked.one("recipe", "zhp")
    found = routes.routes_of(build.recipe(name, asked.options))
    if "json" in asked.switches:
        declared = {loss: sorted(groups) for loss, groups in found.declared.items()}
        show_json({"declared": declared, "measured": found.moved, "faults": found.violations()})
        return bool(found.violations())
    print(routes.plain(found))
    if name == "zhp_original":
        print("\nBeside the notes (seeds/002)\n\n" + routes.plain_notes(found))
    for fault in found.violations():
        print(f"fault: {fault}")
    return bool(found.violations())
