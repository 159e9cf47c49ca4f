"""What is trained, by name: a buffer that becomes a parameter, or a parameter that no longer is one, shows here.

trainable.json holds the names of every group's weights and of the buffers, for each model and variant. After a change
that is meant: python tests/models/test_trainable.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import pytest
from tinymodel import VARIANTS, fits, tiny

from isochrone.core import registry

PINNED = Path(__file__).with_name("trainable.json")
MORE = {"two-hot": {"reward": "symexp_two_hot"}, "mean frame": {"subtract_mean_frame": True}}
EVERY = [(m, v) for m in registry.names("model") for v, c in {**VARIANTS, **MORE}.items() if fits(m, c)]


def trainable(name: str, variant: str) -> dict[str, list[str]]:
    """{group: its weights} of a model, and its buffers."""
    model = tiny(name, **{**VARIANTS, **MORE}[variant])
    names = {id(p): key for key, p in model.named_parameters() if p.requires_grad}
    groups = {group: [names[id(p)] for p in weights] for group, weights in model.groups().items()}
    return {**groups, "(buffers)": [key for key, _ in model.named_buffers()]}


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_the_trainable_parameters_are_those_that_are_written_down(name: str, variant: str) -> None:
    assert trainable(name, variant) == json.loads(PINNED.read_text())[f"{name}, {variant}"]


if __name__ == "__main__":
    PINNED.write_text(json.dumps({f"{n}, {v}": trainable(n, v) for n, v in EVERY}, indent=1) + "\n")
