"""Imports run down: the table of layers, and the checker that reads it, tested on files that break the rule."""

from __future__ import annotations

import ast
import sys

import pytest
from tree import Source, calls, library, source

LIBRARY = {"core", "nets", "envs", "data", "planners", "evals", "models", "losses", "agents", "training"}
# layer -> what it may import of ours. A dotted entry admits that module alone.
MAY = {
    "core": {"core"},
    "nets": {"core", "nets"},
    "envs": {"core", "envs"},
    "data": {"core", "data"},
    "planners": {"core", "planners"},
    "evals": {"core", "agents.baselines", "evals"},
    "models": {"core", "nets", "models"},
    "losses": {"core", "nets.distributions", "losses"},
    "agents": {"core", "nets", "planners", "agents"},
    "training": {"core", "data", "losses", "training"},
    "recipes": {*LIBRARY, "recipes"},
    "workflows": {*LIBRARY, "recipes", "workflows"},
    "cli": {*LIBRARY, "recipes", "workflows", "cli"},
    "": {"core", "losses.routes", "workflows"},
}
CORE_NEEDS = set(sys.stdlib_module_names) | {"torch", "numpy", "jaxtyping", "msgspec", "isochrone"}
STRINGS = ("core/registry.py", "cli/__init__.py", "__init__.py")
"""Files that may import by string: the registry, the table of commands, and the lazy public names."""


def imports(file: Source) -> list[str]:
    """Dotted names of everything imported anywhere in the file, also inside functions and behind TYPE_CHECKING."""
    names: list[str] = []
    package = file.module.split(".") if file.name.endswith("__init__.py") else file.module.split(".")[:-1]
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            head = ".".join([*base, *(node.module.split(".") if node.module else [])])
            names += [f"{head}.{alias.name}" for alias in node.names]
    return names


def admits(allowed: set[str], target: str) -> bool:
    """Is `target` ('isochrone.core.types.Batch') inside one of the allowed modules?"""
    inner = target.removeprefix("isochrone").removeprefix(".")
    return any(inner == name or inner.startswith(f"{name}.") for name in allowed) or inner == "__version__"


def offences(file: Source) -> list[str]:
    """One line per import that runs up."""
    if file.layer not in MAY:
        return [f"{file.name}: '{file.layer}' is no layer; give it a line in tests/rules/test_layers.py"]
    lines = []
    for target in imports(file):
        ours = target.split(".")[0] == "isochrone"
        if ours and not admits(MAY[file.layer], target):
            lines.append(f"{file.name} imports {target}: layer '{file.layer}' may import {sorted(MAY[file.layer])}")
        if file.layer == "core" and target.split(".")[0] not in CORE_NEEDS:
            lines.append(f"{file.name} imports {target}: core needs torch, numpy, msgspec and no other package")
    if file.name not in STRINGS:
        hidden = [name for name, _ in calls(file.tree) if name.split(".")[-1] in ("import_module", "__import__")]
        lines += [f"{file.name} calls {name}: imports by string belong to {', '.join(STRINGS)}" for name in hidden]
    return lines


def test_imports_run_down() -> None:
    assert [line for file in library() for line in offences(file)] == []


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
        ("losses/pixels.py", "from isochrone.nets.image import PatchDecoder"),
        ("losses/pixels.py", "from isochrone.training.learner import Learner"),
        ("evals/report.py", "from isochrone.agents.mpc import MPC"),
        ("agents/mpc.py", "from isochrone.models.zhp import ZHP"),
        ("evals/report.py", "from isochrone.cli import main"),
        ("training/loop.py", "from isochrone.recipes.zhp import zhp"),
        ("recipes/zhp.py", "import isochrone.cli"),
        ("workflows/train.py", "from isochrone.cli import main"),
        ("__init__.py", "from isochrone.models.zhp import ZHP"),
        ("__init__.py", "from . import train"),
        ("models/zhp.py", "import importlib\nimportlib.import_module('isochrone.losses')"),
        ("attic/old.py", "import torch"),
    ],
)
def test_the_checker_sees_an_import_that_runs_up(name: str, text: str) -> None:
    assert len(offences(source(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("planners/cem.py", "from isochrone.core.types import Plan\nfrom .common import score"),
        ("losses/elbo.py", "from isochrone.nets.distributions import OneHot"),
        ("agents/mpc.py", "from isochrone.planners import cem"),
        ("evals/planning.py", "from isochrone.agents.baselines import NoOp"),
        ("cli/plan.py", "from isochrone.recipes import zhp\nfrom isochrone.cli import main"),
        ("__init__.py", "from isochrone.core.gradient import stop_gradient\nfrom .losses.routes import check_routes"),
    ],
)
def test_the_checker_lets_an_import_that_runs_down_pass(name: str, text: str) -> None:
    assert offences(source(name, text)) == []
