"""Overrides reach any field; what is wrong is named, with its path, its value and the mend."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from isochrone.core import registry
from isochrone.core.config import component_config, from_dict, option, override, parse, parse_flags, to_dict, validate
from isochrone.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Settings:
    margin: float = option(0.1, "how far apart", ge=0)
    steps: int = option(4, "how many", ge=1)


@dataclass(frozen=True)
class Entry:
    """An entry of a mapping with a shorthand, and with settings that depend on its name."""

    shorthand: ClassVar[str] = "weight"
    weight: float = option(1.0, "how much it counts", ge=0)
    settings: Any = option(None, "its own")

    def for_name(self, name: str, path: str) -> Entry:
        if name not in ("z2h", "rank_p"):
            raise UserError(f"{path}: no loss called '{name}'{did_you_mean(name, ('z2h', 'rank_p'))}")
        return dataclasses.replace(self, settings=Settings()) if name == "rank_p" and not self.settings else self


class Box:
    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "box"
        shorthand: ClassVar[str] = "map"
        map: str = option("empty", "which map")
        size: int = option(8, "cells", ge=2, le=64)


class Ball:
    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "ball"
        bounce: float = option(0.5, "share kept", ge=0, lt=1)


class Bare:
    """A component that forgot its Config."""


@dataclass(frozen=True)
class Optimiser:
    lr: float = option(1e-3, "step size", gt=0)
    betas: tuple[float, float] = option((0.9, 0.999), "momenta", ge=0, lt=1)
    warmup: int | None = option(None, "steps of warm-up", ge=0)


@dataclass(frozen=True)
class Recipe:
    steps: int = option(100, "updates", ge=0)
    seed: int = option(0, "random seed", ge=0)
    mode: Literal["attached", "detached"] = option("attached", "gradient mode")
    widths: tuple[int, ...] = option((16, 32), "layers", ge=1)
    fast: bool = option(False, "cut corners")
    title: str = option("", "a name")
    optimiser: Optimiser = option(Optimiser(), "how to step")
    env: Any = option(Box.Config, "the environment", component="env")
    loss: dict[str, Entry] = option({"z2h": Entry()}, "the losses", mapping=Entry)
    parts: dict[str, Optimiser] = option({"model": Optimiser()}, "how to step each", mapping=Optimiser)

    def check(self, path: str) -> None:
        if self.fast and self.steps > 1000:
            raise UserError(f"{path}fast = True with {path}steps = {self.steps}: lower one")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of this file's own, so that nothing here depends on what the library holds."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in registry.HOMES}
    found["env"] = {"box": Box, "ball": Ball, "bare": Bare}
    monkeypatch.setattr(registry, "_components", found)
    monkeypatch.setattr(registry, "_scanned", set(registry.HOMES))


def test_every_kind_of_field_can_be_set_by_text() -> None:
    made = override(
        Recipe(),
        {
            "steps": "1e3",
            "mode": "detached",
            "widths": "8, 16,32",
            "fast": "yes",
            "title": "three",
            "optimiser.lr": "3e-4",
            "optimiser.betas": "(0.5,0.9)",
            "optimiser.warmup": "10",
        },
    )
    assert made == Recipe(1000, 0, "detached", (8, 16, 32), True, "three", Optimiser(3e-4, (0.5, 0.9), 10))
    assert isinstance(made.steps, int)
    assert isinstance(made.optimiser.warmup, int)


def test_override_leaves_the_original_and_reads_dashes() -> None:
    base = Recipe()
    assert override(base, {"optimiser.lr": "1"}).optimiser.lr == 1.0
    assert base == Recipe()
    flags = parse_flags(["--env.map-file", "x", "--fast", "--no-op=1", "loss.z2h=0", "--shift", "-3"])
    assert flags == {"env.map_file": "x", "fast": "true", "no_op": "1", "loss.z2h": "0", "shift": "-3"}


def test_a_word_that_is_no_option_is_said() -> None:
    with pytest.raises(UserError, match="'pipes' is not an option"):
        parse_flags(["pipes"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stepz", "1", "unknown option 'stepz'; did you mean 'steps'?"),
        ("optimiser.lrr", "1", "unknown option 'optimiser.lrr'; did you mean 'lr'?"),
        ("zzz", "1", "choose from: env, fast"),
        ("env.siize", "4", "did you mean 'size'?"),
        ("loss.rank_q", "1", "no loss called 'rank_q'; did you mean 'rank_p'?"),
        ("loss.z2h.wait", "1", "unknown option 'loss.z2h.wait'; did you mean 'weight'?"),
        ("loss.rank_p.margin", "1", "loss.rank_p: give it a weight too (loss.rank_p=VALUE), for this recipe has none"),
        ("weights.z2h", "1", "unknown option 'weights'; did you mean 'loss.z2h'?"),
        ("model.lr", "1", "unknown option 'model'; did you mean 'parts.model.lr'?"),
        ("parts.model", "1", "option 'parts.model' is a group: set one of lr, betas, warmup in it"),
        ("parts.model.lr", "0", "parts.model.lr = 0.0: must be greater than 0"),
        ("env", "bocks", "no env called 'bocks'"),
        ("steps", "many", "steps = 'many': must be a whole number"),
        ("steps", "1.5", "steps = '1.5': must be a whole number"),
        ("steps", "true", "must be a whole number"),
        ("steps", "inf", "must be a whole number"),
        ("steps", "nan", "must be a whole number"),
        ("optimiser.lr", "fast", "optimiser.lr = 'fast': must be a number"),
        ("optimiser.betas", "0.9", "2 values separated by commas"),
        ("fast", "perhaps", "fast = 'perhaps': must be true or false"),
        ("mode", "both", "mode = 'both': must be one of attached, detached"),
        ("widths", "8,x", "must be a whole number"),
        ("steps", "-1", "steps = -1: must be at least 0"),
        ("optimiser.lr", "0", "optimiser.lr = 0.0: must be greater than 0"),
        ("optimiser.lr", "nan", "finite number"),
        ("optimiser.betas", "0.5,1", "must be less than 1"),
        ("optimiser.betas", "0.5,nan", "finite number"),
        ("env.size", "65", "env.size = 65: must be at most 64"),
        ("loss.z2h", "-0.5", "loss.z2h.weight = -0.5: must be at least 0"),
        ("loss.z2h", "nan", "finite number"),
        ("loss.z2h", "heavy", "loss.z2h.weight = 'heavy': must be a number"),
        ("loss.z2h.settings.margin", "1", "option 'loss.z2h' has no settings"),
        ("loss", "1", "write loss.NAME=VALUE"),
        ("optimiser", "adam", "'optimiser' is a group: set one of lr, betas, warmup in it"),
        ("steps.more", "1", "'steps' holds one value"),
        ("env", "ball:high", "takes nothing after the colon; got 'high'"),
        ("env", "bare", "env 'bare' has no Config"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        override(Recipe(), {key: value})
    assert words in str(error.value)


def test_a_part_is_chosen_by_name_and_then_set() -> None:
    assert override(Recipe(), {"env": "ball"}).env == Ball.Config()
    assert override(Recipe(), {"env": "box:pipes"}).env == Box.Config("pipes")
    swapped = override(Recipe(), {"env.bounce": "0.25", "env": "ball"})  # the part comes first, however it is written
    assert swapped.env == Ball.Config(0.25)
    with pytest.raises(UserError, match="unknown option 'env.bounce'"):
        override(Recipe(), {"env.bounce": "0.25"})


def test_an_entry_of_a_mapping_is_set_by_its_shorthand_first_and_completed_for_its_name() -> None:
    assert override(Recipe(), {"loss.rank_p": "0.5"}).loss == {"z2h": Entry(), "rank_p": Entry(0.5, Settings())}
    for weight in ("loss.rank_p", "loss.rank_p.weight"):
        changed = override(Recipe(), {"loss.rank_p.settings.margin": "0.3", weight: "2"})
        assert changed.loss["rank_p"] == Entry(2.0, Settings(0.3))
    with pytest.raises(UserError, match=r"loss.rank_p.settings.margin = -1.0: must be at least 0"):
        override(Recipe(), {"loss.rank_p": "1", "loss.rank_p.settings.margin": "-1"})
    assert Recipe().loss == {"z2h": Entry()}


def test_a_mapping_without_a_shorthand_takes_new_entries_in_their_default_settings() -> None:
    parts = override(Recipe(), {"parts.actor.lr": "0.5"}).parts
    assert parts == {"model": Optimiser(), "actor": Optimiser(lr=0.5)}


def test_a_rule_over_several_fields_is_asked_last() -> None:
    assert override(Recipe(), {"fast": "1", "steps": "1000"}).fast
    with pytest.raises(UserError, match="fast = True with steps = 1001"):
        override(Recipe(), {"fast": "1", "steps": "1001"})


def test_an_option_called_check_is_not_a_rule() -> None:
    @dataclass(frozen=True)
    class Careful:
        check: bool = option(True, "look twice")

    assert validate(Careful(False)) == Careful(False)


def test_none_is_a_value_only_where_allowed() -> None:
    assert override(Recipe(optimiser=Optimiser(warmup=3)), {"optimiser.warmup": "none"}).optimiser.warmup is None
    with pytest.raises(UserError, match="steps"):
        override(Recipe(), {"steps": "none"})


def test_large_seeds_survive() -> None:
    assert override(Recipe(), {"seed": str(2**53 + 1)}).seed == 2**53 + 1
    assert parse(2**60 + 1, int, "seed") == 2**60 + 1


def test_values_take_their_declared_type() -> None:
    made = validate(dataclasses.replace(Recipe(), optimiser=Optimiser(lr=1)))
    assert isinstance(made.optimiser.lr, float)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"env": "ball", "optimiser.warmup": "5", "widths": "1"},
        {"env": "box:pipes", "mode": "detached", "loss.rank_p": "0.5", "title": "x"},
        {"loss.rank_p": "2", "loss.rank_p.settings.margin": "0.25", "loss.z2h": "0", "parts.actor.lr": "1"},
    ],
)
def test_the_file_gives_back_what_it_got(changes: dict[str, str]) -> None:
    made = override(Recipe(), changes)
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(made)))) == made


def test_a_part_is_written_with_its_name() -> None:
    assert to_dict(override(Recipe(), {"env": "ball"}))["env"] == {"name": f"{__name__}:Ball", "bounce": 0.5}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"stps": 1}, "unknown option 'stps'; did you mean 'steps'?"),
        ({"optimiser": {"lrate": 1}}, "unknown option 'optimiser.lrate'"),
        ({"env": {"name": "ball", "size": 3}}, "unknown option 'env.size'"),
        ({"env": {"name": "bal"}}, "did you mean 'ball'?"),
        ({"steps": -5}, "at least 0"),
        ({"steps": "many"}, "whole number"),
        ({"loss": {"nothing": 1.0}}, "no loss called 'nothing'"),
        ({"loss": {"z2h": 1.0}}, "loss.z2h = 1.0: must be a group of weight, settings"),
        ({"loss": {"z2h": {"weight": -1.0}}}, "at least 0"),
        (
            {"loss": {"rank_p": {"settings": {"margin": -1.0}}}},
            "loss.rank_p.settings.margin = -1.0: must be at least 0",
        ),
    ],
)
def test_a_file_is_read_as_strictly_as_a_flag(data: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        from_dict(Recipe, data)
    assert words in str(error.value)


def test_component_config_takes_its_main_field() -> None:
    assert component_config("env", "box") == Box.Config()
    assert component_config("env", "box:maze") == Box.Config("maze")


def test_nearest_prefers_the_close_one_and_else_lists() -> None:
    assert did_you_mean("stpes", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert did_you_mean("x", ["b", "a"]) == "; choose from: a, b"
    assert did_you_mean("x", []) == ""
