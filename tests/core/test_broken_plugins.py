"""Entry points of other packages that do not work are named and passed over; everything else goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone import cli
from isochrone.core import registry
from isochrone.core.errors import UserError

BROKEN = {
    "missing": "no_such_package.module:Thing",
    "attribute": "broken_plugin:nothing",
    "raises": "broken_plugin_raises:Thing",
    "syntax": "broken_plugin_syntax:Thing",
    "leaves": "broken_plugin_leaves:Thing",
    "unreadable": "not a path at all",
    "other": "broken_plugin:number",
}


def install(site: Path, name: str, entry_points: str) -> None:
    about = site / f"{name}-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(entry_points)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with broken entry points of every kind, and one whose entry points cannot even be read."""
    groups = [f"[isochrone.{kind}]" + "".join(f"\n{n} = {p}" for n, p in BROKEN.items()) for kind in registry.HOMES]
    site = tmp_path / "site"
    install(site, "broken-plugin", "\n".join(groups))
    install(site, "damaged", "[isochrone.planner]\nthis is no entry point\n")
    (site / "broken_plugin.py").write_text("number = 3\n")
    (site / "broken_plugin_raises.py").write_text("raise RuntimeError('libGL.so.1:\\ncannot open')\n")
    (site / "broken_plugin_syntax.py").write_text("def broken(:\n")
    (site / "broken_plugin_leaves.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(site)
    caches = (registry._plugins, registry._entry_points, registry._warn)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()
    for components in registry._components.values():
        for name in BROKEN:
            components.pop(name, None)


@pytest.mark.parametrize("kind", registry.HOMES)
def test_every_kind_passes_over_what_cannot_be_loaded(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "isochrone"):
        found = registry.components(kind)
        registry.components(kind)
    assert set(found) & set(BROKEN) == {"other"}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)), "each is named once"
    for name in set(BROKEN) - {"other"}:
        (line,) = [line for line in said if f"{kind} '{name}'" in line]
        assert "of the installed package 'broken-plugin' cannot be imported (" in line
        assert line.endswith(": it is passed over")
        assert "\n" not in line
    assert any("the entry points of the installed package 'damaged' cannot be read" in line for line in said)


def test_what_is_of_another_kind_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    from isochrone.evals.figure import figures
    from isochrone.evals.metric import families

    with caplog.at_level(logging.WARNING, "isochrone"):
        assert {family.name for family in families()}.isdisjoint(BROKEN)
        assert {figure.name for figure in figures()}.isdisjoint(BROKEN)
    assert "metric 'other' of the installed package 'broken-plugin' is no Family: it is passed over" in caplog.messages


def test_asking_for_a_broken_one_is_one_sentence() -> None:
    with pytest.raises(UserError) as caught:
        registry.get("model", "raises")
    assert str(caught.value) == (
        "model 'raises' of the installed package 'broken-plugin' cannot be imported (RuntimeError: libGL.so.1)"
    )


def test_the_commands_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list"]) == 0
    out = capsys.readouterr().out
    assert "shooting" in out
    assert "zhp" in out
    assert cli.run(["list", "model"]) == 0
    assert cli.run(["train", "tiny", "--model", "syntax"]) == 2
    assert "cannot be imported (SyntaxError" in capsys.readouterr().err
