"""Whatever is registered can be found by the name of its file, and says how it can be set."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from typing import Any

import pytest
from tree import ROOT

from isochrone.core import config, registry

# One file, one component: the file (or the folder that holds it) has the component's name.
FILES = ("model", "env", "planner", "format", "recipe")
# Families, several to a file: found by importing their folder. Terms are the losses of one paper or one idea, a measure
# returns several numbers that share their encoding, an agent or sink may share its file with its helpers.
FAMILIES = ("loss", "metric", "figure", "agent", "sink")
SET = ("model", "env", "planner", "agent")  # kinds that a recipe holds as a part, so that they need a Config
NEEDED = ("model", "env", "planner", "loss", "metric", "format", "sink", "recipe")

EVERY = [(kind, name) for kind in registry.HOMES for name in registry.names(kind)]
PARTS = [(kind, name) for kind, name in EVERY if kind in SET]


def home(thing: Any) -> str:
    """The module a component was written in; a term's is the module of its function."""
    return getattr(thing, "fn", thing).__module__


def test_every_kind_is_either_a_file_or_a_family() -> None:
    assert set(FILES) | set(FAMILIES) == set(registry.HOMES)
    assert not set(FILES) & set(FAMILIES)


@pytest.mark.parametrize("kind", NEEDED)
def test_there_is_one_of(kind: str) -> None:
    assert registry.names(kind)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_name_is_importable(kind: str, name: str) -> None:
    thing = registry.get(kind, name)
    assert callable(thing) or dataclasses.is_dataclass(thing)
    assert home(thing).startswith(registry.HOMES[kind]), f"{kind} '{name}' lives in {home(thing)}"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in EVERY if k in FILES])
def test_the_file_has_the_name(kind: str, name: str) -> None:
    below = home(registry.get(kind, name)).removeprefix(registry.HOMES[kind]).split(".")
    assert name in below, f"{kind} '{name}' lives in {home(registry.get(kind, name))}; name the file after it"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in EVERY if k in FILES])
def test_a_name_is_found_lazily(kind: str, name: str) -> None:
    """The file of that name is enough: asking for one component does not import the whole folder."""
    assert importlib.util.find_spec(f"{registry.HOMES[kind]}.{name}") is not None


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_component_has_its_config(kind: str, name: str) -> None:
    thing = registry.get(kind, name)
    cls = thing.Config
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen, f"{kind} '{name}': Config must be frozen"
    assert cls.name == name, f"{kind} '{name}': Config.name is {cls.name!r}"
    assert thing.__doc__, f"{kind} '{name}' says nothing about itself"
    if hasattr(cls, "main"):
        assert cls.main in {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_option_has_a_help_line(kind: str, name: str) -> None:
    mute = [f.name for f in dataclasses.fields(registry.get(kind, name).Config) if not f.metadata.get("help")]
    assert not mute, f"{kind} '{name}': no help for {mute}"


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_config_is_valid_and_survives_its_file(kind: str, name: str) -> None:
    made = config.part_config(kind, name)
    assert config.validate(made) == made
    assert config.from_dict(type(made), config.to_dict(made)) == made


@pytest.mark.parametrize("name", registry.names("loss"))
def test_every_term_says_where_it_comes_from(name: str) -> None:
    term = registry.get("loss", name)
    assert term.source and term.reads and term.updates, f"term '{name}' declares too little"
    assert term.__doc__, f"term '{name}' says nothing about itself"


def test_one_component_does_not_load_the_rest() -> None:
    code = (
        "import sys; from isochrone.core import registry; registry.get('planner', 'cem')\n"
        "assert 'isochrone.planners.astar' not in sys.modules and 'isochrone.models.zhp' not in sys.modules"
    )
    path = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
