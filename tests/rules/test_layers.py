"""Imports only run down: the table of floors, and the checker that reads it, tested on a house built wrong."""

from __future__ import annotations

import ast
import sys

import pytest
from tree import FLOORS, Source, calls, library, source

# floor -> what it may import of ours. A dotted entry admits that module alone.
MAY = {
    "core": {"core"},
    "nets": {"core", "nets"},
    "envs": {"core", "envs"},
    "data": {"core", "data"},
    "planners": {"core", "planners"},
    "evals": {"core", "evals"},
    "models": {"core", "nets", "models"},
    "objectives": {"core", "nets.dists", "objectives"},
    "agents": {"core", "nets", "planners", "models.heads", "agents"},
    "train": {"core", "data", "objectives.total", "train"},
    "recipes": {*FLOORS, "recipes"},
    "build": {*FLOORS, "recipes", "build"},
    "tasks": {*FLOORS, "recipes", "build", "tasks"},
    "studies": {*FLOORS, "recipes", "build", "tasks", "studies"},
    "cli": {*FLOORS, "recipes", "build", "tasks", "studies", "cli"},
    "": {"core.route", "objectives.contract"},
}
CORE_NEEDS = set(sys.stdlib_module_names) | {"torch", "numpy", "jaxtyping", "isochrone"}


def imported(file: Source) -> list[str]:
    """Dotted names of everything imported anywhere in the file, also inside functions and behind TYPE_CHECKING."""
    found: list[str] = []
    package = file.module.split(".") if file.name.endswith("__init__.py") else file.module.split(".")[:-1]
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            head = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found += [f"{head}.{alias.name}" for alias in node.names]
    return found


def admitted(target: str, allowed: set[str]) -> bool:
    """Is `target` ('isochrone.core.types.Batch') inside one of the allowed modules?"""
    inner = target.removeprefix("isochrone").removeprefix(".")
    head = inner.split(".")[0]
    inner = "cli" if head.startswith("cli") else inner
    return any(inner == name or inner.startswith(f"{name}.") for name in allowed)


def offences(file: Source) -> list[str]:
    """One line per import that runs up."""
    if file.floor not in MAY:
        return [f"{file.name}: '{file.floor}' stands on no floor; give it a line in tests/house/test_layers.py"]
    out = []
    for target in imported(file):
        ours = target.split(".")[0] == "isochrone"
        if ours and not admitted(target, MAY[file.floor]):
            out.append(f"{file.name} imports {target}: floor '{file.floor}' may import {sorted(MAY[file.floor])}")
        if file.floor == "core" and target.split(".")[0] not in CORE_NEEDS:
            out.append(f"{file.name} imports {target}: core needs torch, numpy and the standard library only")
    if file.name != "core/registry.py":
        hidden = [name for name, _ in calls(file.tree) if name.split(".")[-1] in ("import_module", "__import__")]
        out += [f"{file.name} calls {name}: imports by string belong to core/registry.py" for name in hidden]
    return out


@pytest.mark.parametrize("file", library(), ids=lambda f: f.name)
def test_imports_run_down(file: Source) -> None:
    assert not offences(file), "\n".join(offences(file))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("planners/cem.py", "from isochrone.models.zhp import ZHP"),
        ("planners/cem.py", "def plan():\n    from isochrone.envs import whitebox"),
        ("planners/cem.py", "from ..models import zhp"),
        ("planners/cem.py", "from isochrone import models"),
        ("core/types.py", "import isochrone.nets.mlp"),
        ("core/types.py", "import gymnasium"),
        ("models/zhp.py", "if TYPE_CHECKING:\n    from isochrone.losses.loss import Loss"),
        ("objectives/pixels.py", "from isochrone.nets.image import Decoder"),
        ("train/loop.py", "from isochrone.losses.loss import Loss"),
        ("agents/mpc.py", "from isochrone.models.zhp import ZHP"),
        ("evals/report.py", "from isochrone.cli import main"),
        ("train/loop.py", "from isochrone.recipes.zhp import recipe"),
        ("recipes/zhp.py", "import isochrone.cli_plan"),
        ("__init__.py", "from isochrone.models.zhp import ZHP"),
        ("__init__.py", "from . import train"),
        ("models/zhp.py", "import importlib\nimportlib.import_module('isochrone.losses')"),
        ("attic/old.py", "import torch"),
    ],
)
def test_the_checker_sees(name: str, text: str) -> None:
    assert len(offences(source(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("planners/cem.py", "from isochrone.core.types import Plan\nfrom .score import score"),
        ("objectives/belief.py", "from isochrone.nets.distributions import OneHot"),
        ("agents/mpc.py", "from isochrone.models.statespace import Head\nfrom isochrone.planners import cem"),
        ("cli_plan.py", "from isochrone.recipes import zhp\nfrom isochrone.cli import main"),
        (
            "__init__.py",
            "from isochrone.core.gradient import stop_gradient\nfrom .objectives.contract import check_routes",
        ),
    ],
)
def test_the_checker_lets_pass(name: str, text: str) -> None:
    assert offences(source(name, text)) == []
