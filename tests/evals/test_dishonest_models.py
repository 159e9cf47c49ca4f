"""No model that knows nothing meets a target, and the exact one meets all: for every metric that declares a target."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from dishonest import MODELS
from oracle import best_action
from perfect import Greedy, Perfect, make_env

from isochrone.agents.baselines import NoOp, Random
from isochrone.core.types import ActionSpec
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig
from isochrone.evals import suite
from isochrone.evals.context import Context, EvalConfig
from isochrone.evals.metric import families
from isochrone.evals.metrics import action_consistency

pytestmark = pytest.mark.slow

CONFIG = EvalConfig(episodes=12, length=14, pairs=40, horizon=4, return_episodes=8)

PERCEIVES = ("perception.spearman", "perception.pipe_ends_gap", "perception.position_error")
BELIEVES = ("belief.velocity_r2", "belief.velocity_r2_z", "belief.clock_r2")
STEPS = ("action_consistency.noop_ratio", "action_consistency.inverse_residual", "action_consistency.drift")
PLANS = ("planning.best.success", "planning.best.path_ratio", "planning.cem.success")
HONEST: dict[str, dict[str, str]] = {
    "constant": {},
    "collapsed": dict.fromkeys(PLANS, "its d_p has the right order down to rounding, which is all that a plan needs"),
    "shrunken": {
        **dict.fromkeys(PERCEIVES, "z is the position"),
        **dict.fromkeys(BELIEVES, "h is filtered by the true physics"),
        "reach.spearman": "d_p ranks places rightly, and no rank has a unit",
        "reach.asymmetry": "so do both directions",
    },
    "random": {"belief.velocity_r2_z": "a random code shows no velocity"},
    "clock": {"belief.velocity_r2_z": "time shows no velocity"},
    "Euclidean": {
        **dict.fromkeys(PERCEIVES, "z is the position"),
        **dict.fromkeys(BELIEVES, "h is filtered by the true physics"),
        **dict.fromkeys(STEPS, "it imagines rightly, and in free space its p is right"),
    },
    "transposed": {
        **dict.fromkeys(PERCEIVES, "z is the position"),
        **dict.fromkeys(BELIEVES, "h is filtered by the true physics"),
        **dict.fromkeys(STEPS, "it imagines rightly, and lengths are the larger of both directions"),
    },
    "copy of the last frame": {
        **dict.fromkeys(PERCEIVES, "z is the position"),
        "belief.velocity_r2_z": "one frame shows no velocity",
        "reach.spearman": "d_p is exact between frames that were seen",
        "reach.mae": "d_p is exact between frames that were seen",
        "reach.asymmetry": "d_p is exact between frames that were seen",
        "disagreement.auroc": "d_p is exact between frames that were seen",
    },
}
"""Targets that a dishonest model may meet, and why: what it measures, the model truly has."""


class Oracle:
    """Plays the best actions of a white box with a task."""

    name, needs_goal = "oracle", False

    def __init__(self, env: WhiteBox) -> None:
        self.env = env

    def start(self, batch: int, goal: Any = None, rng: Any = None) -> int:
        return batch

    def restart(self, carry: int, rows: torch.Tensor, goal: Any = None) -> int:
        return carry

    def act(self, obs: Any, carry: int, mode: str = "eval") -> tuple[torch.Tensor, int, dict[str, Any]]:
        return best_action(self.env), carry, {}


class Always(Oracle):
    """Always the same action; with `turns`, all in turn."""

    def __init__(self, action: ActionSpec, turns: bool = False) -> None:
        self.size, self.turns, self.calls = action.size, turns, 0

    def act(self, obs: Any, carry: int, mode: str = "eval") -> tuple[torch.Tensor, int, dict[str, Any]]:
        self.calls += 1
        index = self.calls % self.size if self.turns else 1
        return torch.eye(self.size)[[index] * carry], carry, {}


def contexts(name: str) -> Iterator[Context]:
    """Everything that the metrics need: a map with pipes and goals, hidden velocity, and a task with a known best."""
    make = MODELS.get(name, Perfect)
    for momentum in (False, True):
        env = make_env(envs=CONFIG.episodes, momentum=momentum)
        model = make(env)
        yield suite.recording_context(model, env, CONFIG, agents={"cem": Greedy(model)})
    env = WhiteBox(WhiteBoxConfig(map="four-rooms", task="collect", episode_length=30), CONFIG.return_episodes)
    action = env.spec.action
    agents = {
        "exact": Oracle(env),
        "clock": Always(action, turns=True),
        "random": Random(action),
        "constant": Always(action),
    }
    agent = agents.get(name, NoOp(action))
    rng = torch.Generator().manual_seed(0)
    yield Context(make(env), CONFIG, rng, agents={"agent": agent}, plans_to_goals=False, make_env=lambda count: env)


@cache
def measured(name: str) -> list[dict[str, dict[str, Any]]]:
    """{key: entry} of the metrics with a target in each context; families that an earlier one has measured are left out
    of a later one."""
    out: list[dict[str, dict[str, Any]]] = []
    for place, context in enumerate(contexts(name)):
        seen = {key for entries in (out if name == "exact" else measured("exact")[:place]) for key in entries}
        aimed = [f for f in families() if any(m.target and m.key not in seen for m in f.metrics) and f.applies(context)]
        results = [suite.compute(family, context)[0] for family in aimed]
        out.append({key: entry for found in results for key, entry in found.items() if "target" in entry})
    return out


@pytest.fixture(autouse=True, scope="module")
def few_walks() -> Iterator[None]:
    """Fewer walks are as good here, and eight times as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action_consistency, "WALKS", 64)
        yield


def targets(name: str) -> dict[str, dict[str, Any]]:
    """{key: entry} of every metric with a target, from the first context in which the exact model has it."""
    first: dict[str, int] = {}
    for place, entries in enumerate(measured("exact")):
        first |= {key: place for key, entry in entries.items() if entry["value"] is not None and key not in first}
    return {key: entry for key, place in first.items() if (entry := measured(name)[place].get(key))}


def test_the_exact_model_meets_every_target() -> None:
    entries = targets("exact")
    declared = {m.key for f in families() for m in f.metrics if m.target and not m.is_pattern}
    assert declared == set(entries), "the exact model or a context lacks what a metric with a target needs"
    assert not {k: e for k, e in entries.items() if e["met"] is not True}


@pytest.mark.parametrize("name", MODELS)
def test_a_dishonest_model_meets_only_what_it_truly_has(name: str) -> None:
    entries = targets(name)
    assert {k for k, e in entries.items() if e["met"]} == set(HONEST[name])
    for key, entry in entries.items():
        assert entry["value"] is not None or entry["refused"], key
