"""isochrone list: the names of everything that a recipe can use, with one line about each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from isochrone.cli.args import Parser, show_json, show_table
from isochrone.cli.output import show
from isochrone.core import registry
from isochrone.core.errors import UserError, did_you_mean

KINDS = (*registry.HOMES, "map")


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "list",
        ["[KIND] [--json]"],
        "Lists components with the first line of their documentation. Without KIND: of every kind.\n"
        f"Kinds: {', '.join(KINDS)}",
        "  isochrone list recipe\n  isochrone list map\n  isochrone list loss",
    )
    out.add_argument("kind", nargs="*", metavar="KIND", help="see above")
    out.add_json()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0."""
    if len(args.kind) > 1:
        raise UserError(f"give one kind, not {' '.join(args.kind)}")
    for kind in args.kind:
        if kind not in KINDS:
            raise UserError(f"no kind called '{kind}'{did_you_mean(kind, KINDS)}")
    texts = {kind: _texts(kind) for kind in (args.kind or KINDS)}
    if args.json:
        show_json(texts)
        return 0
    for kind, text_of in texts.items():
        if not args.kind:
            show(kind)
        show_table(text_of.items(), indent=2)
    return 0


def _texts(kind: str) -> dict[str, str]:
    """{name: one line} of a kind."""
    if kind == "map":
        from isochrone.envs.whitebox import maps

        return {name: _map_text(maps.load(name)) for name in maps.names()}
    return {name: _first_line(component) for name, component in registry.components(kind).items()}


def _first_line(component: Callable[..., Any]) -> str:
    return (component.__doc__ or "").strip().split("\n")[0]


def _map_text(drawing: Any) -> str:
    words = [f"{len(drawing.cells())} cells"]
    ends = len(drawing.pipes)
    two_way = sum(drawing.pipes.get(b) == a for a, b in drawing.pipes.items()) // 2
    one_way = ends - 2 * two_way
    words += [f"{two_way} two-way pipe{'s' * (two_way > 1)}"] if two_way else []
    words += [f"{one_way} one-way pipe{'s' * (one_way > 1)}"] if one_way else []
    for chars, text in (("<>^v", "one-way doors"), ("~", "slow zone"), ("+", "fast zone"), ("%", "occluder")):
        words += [text] if drawing.cells(chars) else []
    return ", ".join(words)
