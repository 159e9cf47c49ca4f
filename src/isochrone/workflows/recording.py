"""Checks a recording as training would: the rows, and whether the models of recipes can take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.data import source
from isochrone.workflows import factory
from isochrone.workflows.train import build_all


def validate(path: Path, recipe: str | None = None, changes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """As `data.source.validate`, with 'recipes': those that can be trained on it, with the options that they need.

    Of all recipes, or of `recipe` with `changes` of its config.

    Raises:
        UserError: the recording is not sound, or no recipe can be trained on it.
    """
    facts = source.validate(path)
    if recipe is not None:
        build_all(factory.make_config(recipe, {**(changes or {}), "data.path": str(path)}))
        return facts | {"recipes": [recipe]}
    fits, reasons = list[str](), dict[str, UserError]()
    for name in registry.names("recipe"):
        try:
            needed = _no_collection(name)
            build_all(factory.make_config(name, {**needed, "data.path": str(path)}))
            fits.append(" ".join([name, *(f"--{option.replace('_', '-')} 0" for option in needed)]))
        except UserError as error:
            reasons[name] = error
    if not fits:
        first = next(name for name in ("zhp", *reasons) if name in reasons)
        raise UserError(f"{path}: no recipe can be trained on it; {first}: {reasons[first]}")
    return facts | {"recipes": fits}


def _no_collection(recipe: str) -> dict[str, str]:
    """Options without which a recipe would continue the recording."""
    data = factory.make_config(recipe).data
    return {f"data.{name}": "0" for name in ("collect_every", "train_ratio") if getattr(data, name)}
