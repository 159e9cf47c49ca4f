"""Whatever is registered can be imported, has a valid Config with a help line for every option, and a docstring."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from tree import ROOT

from isochrone.core import config, registry

CONFIGURED = ("model", "env", "planner", "agent")  # kinds that a recipe configures
EVERY = [(kind, name) for kind in registry.HOMES for name in registry.names(kind)]
COMPONENTS = [(kind, name, registry.get(kind, name)) for kind, name in EVERY if kind in CONFIGURED]


def home(component: Any) -> str:
    """The module a component was written in; a loss's is the module of its function."""
    return getattr(component, "fn", component).__module__


@pytest.mark.parametrize("kind", sorted(registry.HOMES))
def test_every_kind_has_a_component(kind: str) -> None:
    assert registry.names(kind)


def test_every_component_lives_in_the_package_of_its_kind() -> None:
    homes = {(kind, name): home(registry.get(kind, name)) for kind, name in EVERY}
    assert {key: module for key, module in homes.items() if not module.startswith(registry.HOMES[key[0]])} == {}


def test_every_component_has_a_docstring() -> None:
    assert [(kind, name) for kind, name in EVERY if not registry.get(kind, name).__doc__] == []


def test_every_config_is_a_frozen_dataclass_of_the_components_name() -> None:
    wrong = []
    for kind, name, component in COMPONENTS:
        cls = component.Config
        if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen or cls.name != name:
            wrong.append(f"{kind} {name}")
    assert wrong == []


def test_every_option_has_a_help_line() -> None:
    silent = [
        f"{kind} {name}: {field.name}"
        for kind, name, component in COMPONENTS
        for field in dataclasses.fields(component.Config)
        if not field.metadata.get("help")
    ]
    assert silent == []


def test_every_default_config_is_valid_and_survives_json() -> None:
    changed = []
    for kind, name, component in COMPONENTS:
        default = component.Config()
        if config.validate(default) != default or config.from_dict(type(default), config.to_dict(default)) != default:
            changed.append(f"{kind} {name}")
    assert changed == []


def test_every_loss_declares_source_reads_and_updates() -> None:
    losses = [registry.get("loss", name) for name in registry.names("loss")]
    assert [loss.name for loss in losses if not (loss.source and (loss.reads or loss.uses) and loss.updates)] == []


def test_a_component_is_imported_without_the_others() -> None:
    code = (
        "import sys; from isochrone.core import registry; registry.get('planner', 'cem')\n"
        "assert 'isochrone.planners.astar' not in sys.modules and 'isochrone.models.zhp' not in sys.modules"
    )
    path = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
