"""`isochrone routes`: the tables are true, and docs/routes.md is what it prints."""

from __future__ import annotations

import json
from functools import cache

import pytest
from tree import ROOT

from isochrone.core import registry
from isochrone.losses.routes import GradientReport
from isochrone.workflows import routes
from isochrone.workflows.factory import make_config

pytestmark = pytest.mark.slow


WIDE = {
    "planet",
    "dreamer_v1",
    "dreamer_v2",
    "dreamer_v3",
}  # their routes do not depend on the width, only the time does
NARROW = {"model.hidden": "32", "model.depth": "4", "model.head_units": "32"}


@cache
def found(name: str) -> GradientReport:
    """A recipe's routes, measured once for all tests here."""
    return routes.measure_routes(make_config(name, NARROW if name in WIDE else {}))


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_the_gradient_routes_of_every_recipe_are_as_declared(name: str) -> None:
    assert not found(name).violations()


def test_the_generated_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "routes.md").read_text(encoding="utf-8")
    tables = {name: found(name) for name in registry.names("recipe")}
    assert page == routes.to_page(tables), "run: isochrone routes --all --write docs/routes.md"


def test_every_difference_from_the_notes_is_explained() -> None:
    rows = routes.compare_with_original(found("zhp_original"))
    assert len(rows) == len(routes.ORIGINAL_GROUPS)
    assert not [row for row in rows if "unexplained" in row[3]]


def test_the_routes_command_prints_and_writes(isochrone) -> None:
    done = isochrone("routes", "zhp_original")
    assert done.code == 0
    assert "Beside the original design" in done.out
    assert "✗" not in done.out
    found = json.loads(isochrone("routes", "tiny", "--json").out)
    assert found["faults"] == []
    assert found["measured"]["jepa"]["encoder"] == 0.0
    attached = json.loads(isochrone("routes", "tiny", "--model.stop-grad-to-encoder", "false", "--json").out)
    assert attached["measured"]["jepa"]["encoder"] > 0
    assert isochrone("routes", "tiny", "--write", "x.md").code == 2
