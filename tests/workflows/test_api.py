"""The Python interface: docs/python.md runs, importing is light, wrong calls are sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fenced import blocks, run
from tree import ROOT

import isochrone
from isochrone.core.errors import UserError


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    for block in blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8")):
        done = run(block, tmp_path)
        assert done.returncode == 0, f"docs/python.md:{block.line}\n{done.stdout}\n{done.stderr[-4000:]}"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, isochrone, isochrone.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}).returncode == 0


@pytest.mark.parametrize("name", [name for name in isochrone.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    assert callable(getattr(isochrone, name))
    assert f"`{name}(" in (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = isochrone.nothing


def test_train_needs_a_recipe_or_a_run() -> None:
    with pytest.raises(UserError, match="give a recipe"):
        isochrone.train()
    with pytest.raises(UserError, match="resumed with its own config"):
        isochrone.train("tiny", resume="runs/a")
