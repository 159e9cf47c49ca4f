"""Ground truth is for measuring only: whatever learns or plans never asks an environment for its true state.

Syntax does not know types, so the rule is about names: in these layers the accessors of ground truth may not be used at
all, except as a method of the class itself (`self.draw(...)`), and `distance` may only be asked of the model.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from tree import Source, dotted, library, source

LAYERS = {"losses", "models", "planners", "agents"}
ACCESSORS = {"set_state", "transition", "draw", "table", "places", "truth"}
OWN = {"self", "model", "self.model"}


def _touches(file: Source) -> Iterator[tuple[int, str, str]]:
    """(line, receiver, accessor) for every attribute and every getattr with a literal name."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, dotted(node.value), node.attr
        elif isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, dotted(node.args[0]), name.value


def offences(file: Source) -> list[str]:
    """One line per use of ground truth."""
    out = []
    for line, receiver, name in _touches(file):
        if (name in ACCESSORS and receiver != "self") or (name == "distance" and receiver not in OWN):
            out.append(f"{file.name}:{line}: {receiver}.{name} looks like ground truth, which is for measuring only")
    for node in ast.walk(file.tree):
        call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "state"
        if call and not (node.args or node.keywords) and dotted(node.func.value) != "self":
            out.append(f"{file.name}:{node.lineno}: {dotted(node.func.value)}.state() reads the true state")
        name = node.id if isinstance(node, ast.Name) else node.name if isinstance(node, ast.alias) else ""
        if name == "GroundTruth":
            out.append(f"{file.name}: GroundTruth is named; what learns or plans must not know it")
    return out


def test_nothing_that_learns_or_plans_reads_ground_truth() -> None:
    assert [line for file in library() if file.layer in LAYERS for line in offences(file)] == []


@pytest.mark.parametrize(
    "text",
    [
        "env.distance(a, b)",
        "self.env.distance(a, b)",
        "model.env.distance(a, b)",
        "make().distance(a, b)",
        "far = world.distance",
        "getattr(env, 'distance')(a, b)",
        "env.state()",
        "self.env.state()",
        "world.table()",
        "world.places()",
        "env.transition(s, a)",
        "self.world.draw(s)",
        "from isochrone.core.protocols import GroundTruth",
        "batch.truth",
    ],
)
def test_the_checker_sees_ground_truth(text: str) -> None:
    assert len(offences(source("losses/a.py", text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.distance(a, b, 'p')",
        "self.distance(a, b)",
        "self.model.distance(a, b)",
        "self.state = state",
        "roll.state",
        "optimizer.state(key)",
        "self.draw(rng)",
        "def distance(a, b): ...",
    ],
)
def test_the_checker_lets_the_model_pass(text: str) -> None:
    assert offences(source("models/a.py", text)) == []
