"""The registry imports modules on demand, refuses two components of one name, and suggests similar names."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from isochrone.core import registry
from isochrone.core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package as the home of planners, and an empty registry."""
    package = tmp_path / "isochrone_test_home"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.HOMES, "planner", package.name)
    monkeypatch.setattr(registry, "_components", {kind: {} for kind in registry.HOMES})
    monkeypatch.setattr(registry, "_scanned", set())
    registry._plugins.cache_clear()
    yield package
    registry._plugins.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == package.name]:
        del sys.modules[name]


def component(name: str, before: str = "") -> str:
    return (
        f"{before}\nfrom isochrone.core.registry import register\n\n"
        f"@register('planner', '{name}')\nclass Thing:\n    label = '{name}'\n"
    )


def test_get_imports_only_the_module_of_that_name(folder: Path) -> None:
    (folder / "good.py").write_text(component("good"))
    (folder / "other.py").write_text("raise RuntimeError('not needed')")
    assert registry.get("planner", "good").label == "good"
    assert f"{folder.name}.other" not in sys.modules


def test_get_finds_a_name_in_any_module_of_the_package(folder: Path) -> None:
    (folder / "family.py").write_text(component("child"))
    assert registry.get("planner", "child").label == "child"
    assert registry.names("planner") == ["child"]


def test_names_are_sorted_and_complete(folder: Path) -> None:
    for name in ("b", "a", "c"):
        (folder / f"{name}.py").write_text(component(name))
    assert registry.names("planner") == ["a", "b", "c"]


def test_is_registered(folder: Path) -> None:
    (folder / "family.py").write_text(component("child"))
    (folder / "fancy.py").write_text(component("fancy", before="import no_such_package"))
    assert registry.is_registered("planner", "child")
    assert registry.is_registered("planner", "fancy"), "its module is there, though it cannot be imported"
    assert not registry.is_registered("planner", "nothing")
    assert not registry.is_registered("planner", "some.module")


def test_an_unknown_name_gets_a_suggestion(folder: Path) -> None:
    (folder / "shooting.py").write_text(component("shooting"))
    with pytest.raises(UserError, match="no planner called 'shoting'; did you mean 'shooting'"):
        registry.get("planner", "shoting")


def test_a_missing_package_disables_only_its_own_module(folder: Path) -> None:
    (folder / "fancy.py").write_text(component("fancy", before="import no_such_package"))
    (folder / "plain.py").write_text(component("plain"))
    with pytest.raises(UserError, match="planner 'fancy' needs the package 'no_such_package'"):
        registry.get("planner", "fancy")
    assert registry.names("planner") == ["plain"]


def test_an_error_in_a_module_is_raised(folder: Path) -> None:
    (folder / "broken.py").write_text("import isochrone.no_such_file")
    with pytest.raises(ModuleNotFoundError, match="no_such_file"):
        registry.names("planner")


def test_two_components_cannot_share_a_name(folder: Path) -> None:
    def make(module: str) -> Any:
        return types.new_class("Thing", (), exec_body=lambda ns: ns.update(__module__=module))

    registry.register("planner", "one")(make("here"))
    registry.register("planner", "one")(make("here"))  # the same module, imported again
    with pytest.raises(ValueError, match="planner 'one' is taken"):
        registry.register("planner", "one")(make("there"))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'planer'; did you mean 'planner'"):
        registry.register("planer", "x")(object)


@pytest.fixture
def outside(folder: Path) -> Iterator[str]:
    """A module outside isochrone with a class `Mine` and a class registered as 'ours'."""
    (folder.parent / "theirs.py").write_text(component("ours") + "\nclass Mine:\n    pass\n")
    yield "theirs"
    sys.modules.pop("theirs", None)


def test_an_import_path_works_after_load_only(outside: str) -> None:
    with pytest.raises(UserError, match=f"planner '{outside}:Mine' is code from outside isochrone.*--trust"):
        registry.get("planner", f"{outside}:Mine")
    assert outside not in sys.modules
    registry.load("planner", f"{outside}:Mine")
    assert registry.get("planner", f"{outside}:Mine").__name__ == "Mine"
    assert registry.names("planner") == ["ours"], "an import path is not a name"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("theirs:Yours", "planner 'theirs:Yours' cannot be imported: .*no attribute 'Yours'"),
        ("no.such.module:Thing", "planner 'no.such.module:Thing' cannot be imported: No module named 'no'"),
        ("childe:Thing", "no planner called 'childe'; did you mean 'child'"),
    ],
)
def test_a_wrong_import_path_is_a_sentence(outside: str, folder: Path, path: str, message: str) -> None:
    (folder / "family.py").write_text(component("child"))
    with pytest.raises(UserError, match=message):
        registry.load("planner", path)


def test_components_of_isochrone_are_stored_by_name() -> None:
    assert registry.address("loss", "vicreg") == "vicreg"


def test_trust_ends_with_its_context(outside: str) -> None:
    with registry.trusted(False), pytest.raises(UserError, match="--trust"):
        registry.get("planner", f"{outside}:Mine")
    with registry.trusted():
        registry.get("planner", f"{outside}:Mine")
    with pytest.raises(UserError, match="--trust"):
        registry.get("planner", f"{outside}:component")


def test_the_address_of_a_component(outside: str, folder: Path) -> None:
    registry.load("planner", f"{outside}:Mine")
    assert registry.address("planner", f"{outside}:Mine") == f"{outside}:Mine"
    assert registry.address("planner", "ours") == f"{outside}:Thing", "another process does not know the name 'ours'"
    assert registry.canonical("planner", f"{outside}:Thing") == "ours"


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An installed package with one entry point, the planner 'plugin'."""
    point = EntryPoint(name="plugin", value=value, group="isochrone.planner")
    monkeypatch.setattr(registry, "_entry_points", lambda: [point])


def test_an_entry_point_is_a_name_like_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "builtins:dict")
    assert registry.names("planner") == ["plugin"]
    assert registry.get("planner", "plugin") is dict
    assert registry.address("planner", "plugin") == "plugin"


def test_listing_names_does_not_load_entry_points(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "no_such_package:thing")
    assert registry.names("planner") == ["plugin"]
    with pytest.raises(UserError, match="planner 'plugin' of an installed package cannot be imported"):
        registry.get("planner", "plugin")
