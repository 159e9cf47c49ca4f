"""Names are found lazily, told apart, and what is missing is named with the nearest there is."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isochrone.core import registry
from isochrone.core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the home of planners, with an empty registry."""
    package = tmp_path / "isochrone_test_home"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.HOMES, "planner", package.name)
    monkeypatch.setattr(registry, "_FOUND", {kind: {} for kind in registry.HOMES})
    monkeypatch.setattr(registry, "_SCANNED", set())
    yield package
    for name in [n for n in sys.modules if n.split(".")[0] == package.name]:
        del sys.modules[name]


def component(name: str, before: str = "") -> str:
    return (
        f"{before}\nfrom isochrone.core.registry import register\n\n"
        f"@register('planner', '{name}')\nclass Thing:\n    label = '{name}'\n"
    )


def test_a_file_is_found_by_its_name_and_alone(folder: Path) -> None:
    (folder / "good.py").write_text(component("good"))
    (folder / "other.py").write_text("raise RuntimeError('nobody asked for me')")
    assert registry.get("planner", "good").label == "good"
    assert f"{folder.name}.other" not in sys.modules


def test_a_name_inside_another_file_is_found_by_looking_everywhere(folder: Path) -> None:
    (folder / "family.py").write_text(component("child"))
    assert registry.get("planner", "child").label == "child"
    assert registry.names("planner") == ["child"]


def test_names_are_sorted_and_complete(folder: Path) -> None:
    for name in ("b", "a", "c"):
        (folder / f"{name}.py").write_text(component(name))
    assert registry.names("planner") == ["a", "b", "c"]


def test_an_unknown_name_gets_the_nearest(folder: Path) -> None:
    (folder / "shooting.py").write_text(component("shooting"))
    with pytest.raises(UserError, match="no planner called 'shoting'; did you mean 'shooting'"):
        registry.get("planner", "shoting")


def test_a_missing_package_is_named_and_hides_only_its_own_file(folder: Path) -> None:
    (folder / "fancy.py").write_text(component("fancy", before="import no_such_package"))
    (folder / "plain.py").write_text(component("plain"))
    with pytest.raises(UserError, match="planner 'fancy' needs the package 'no_such_package'"):
        registry.get("planner", "fancy")
    assert registry.names("planner") == ["plain"]


def test_an_error_in_a_file_is_not_swallowed(folder: Path) -> None:
    (folder / "broken.py").write_text("import isochrone.no_such_file")
    with pytest.raises(ModuleNotFoundError, match="no_such_file"):
        registry.names("planner")


def test_two_things_cannot_share_a_name(folder: Path) -> None:
    def make(module: str) -> Any:
        return types.new_class("Thing", (), exec_body=lambda ns: ns.update(__module__=module))

    registry.register("planner", "one")(make("here"))
    registry.register("planner", "one")(make("here"))  # the same file, imported again
    with pytest.raises(ValueError, match="planner 'one' is taken"):
        registry.register("planner", "one")(make("there"))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'planer'; did you mean 'planner'"):
        registry.register("planer", "x")(object)


def test_a_dotted_address_reaches_other_people_s_code(folder: Path) -> None:
    (folder.parent / "theirs.py").write_text("class Mine:\n    pass\n")
    try:
        assert registry.get("planner", "theirs:Mine").__name__ == "Mine"
        with pytest.raises(UserError, match="cannot be imported"):
            registry.get("planner", "theirs:Yours")
        with pytest.raises(UserError, match="cannot be imported"):
            registry.get("planner", "nobody_has_this:Thing")
    finally:
        sys.modules.pop("theirs", None)


def test_an_entry_point_is_a_name_like_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "plugin"

        def load(self) -> Any:
            return dict

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "isochrone.planner" else [])
    assert registry.get("planner", "plugin") is dict and registry.names("planner") == ["plugin"]
