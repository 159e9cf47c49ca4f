"""isochrone list: what there is, one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isochrone.cli.words import asks_help, show_json, split
from isochrone.core.errors import UserError, did_you_mean

USAGE = """isochrone list [KIND] [--json]

What there is, one line each. Without KIND: every kind.
Kinds: {kinds}

  isochrone list recipe
  isochrone list map
  isochrone list term
"""


def command(words: list[str]) -> int:
    """0."""
    from isochrone.core import registry

    kinds = [*registry.HOMES, "map"]
    if asks_help(words):
        print(USAGE.format(kinds=", ".join(kinds)), end="")
        return 0
    asked = split(words)
    asked.only()
    if len(asked.given) > 1:
        raise UserError(f"give one kind, not {' '.join(asked.given)}")
    for kind in asked.given:
        if kind not in kinds:
            raise UserError(f"no kind called '{kind}'{did_you_mean(kind, kinds)}")
    found = {kind: _things(kind) for kind in (asked.given or kinds)}
    if "json" in asked.switches:
        show_json(found)
        return 0
    for kind, things in found.items():
        if not asked.given:
            print(f"{kind}")
        for name, says in things.items():
            print(f"  {name:<24}{says}")
    return 0


def _things(kind: str) -> dict[str, str]:
    from isochrone.core import registry

    if kind == "map":
        from isochrone.envs.whitebox import maps

        return {name: _map(maps.load(name)) for name in maps.names()}
    return {name: _line(registry.get(kind, name)) for name in registry.names(kind)}


def _line(thing: Callable[..., Any]) -> str:
    """The first sentence of its docstring."""
    text = (thing.__doc__ or "").strip().split("\n")[0]
    return text if len(text) <= 110 else text[:109] + "…"


def _map(drawing: Any) -> str:
    words = [f"{len(drawing.cells())} cells"]
    ends = len(drawing.pipes)
    two = sum(drawing.pipes.get(b) == a for a, b in drawing.pipes.items()) // 2
    one = ends - 2 * two
    words += [f"{two} two-way pipe{'s' * (two > 1)}"] if two else []
    words += [f"{one} one-way pipe{'s' * (one > 1)}"] if one else []
    for chars, says in (("<>^v", "one-way doors"), ("~", "slow zone"), ("+", "fast zone"), ("%", "occluder")):
        words += [says] if drawing.cells(chars) else []
    return ", ".join(words)
