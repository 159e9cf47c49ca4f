"""`isochrone routes`: the tables are true, and docs/routes.md is what it prints."""

from __future__ import annotations

import json

import pytest
from tree import ROOT

from isochrone import build
from isochrone.core import registry
from isochrone.tasks import routes


def test_the_generated_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "routes.md").read_text(encoding="utf-8")
    assert page == routes.page(registry.names("recipe")), "run: isochrone routes --all --write docs/routes.md"


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_every_recipe_keeps_its_promises(name: str) -> None:
    assert not routes.routes_of(build.recipe(name)).faults()


def test_every_difference_from_the_notes_is_explained() -> None:
    rows = routes.against_notes(routes.routes_of(build.recipe("zhp_seed002")))
    assert len(rows) == len(routes.NOTES)
    assert not [row for row in rows if "unexplained" in row[3]]


def test_the_command(isochrone) -> None:
    done = isochrone("routes", "zhp_seed002")
    assert done.code == 0 and "Beside the notes" in done.out and "✗" not in done.out
    found = json.loads(isochrone("routes", "tiny", "--json").out)
    assert found["faults"] == [] and found["measured"]["jepa"]["encoder"] == 0.0
    attached = json.loads(isochrone("routes", "tiny", "--model.detach-z-from-h-and-p", "false", "--json").out)
    assert attached["measured"]["jepa"]["encoder"] > 0
    assert isochrone("routes", "tiny", "--write", "x.md").code == 2
