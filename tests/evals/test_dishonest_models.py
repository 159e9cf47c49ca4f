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
from isochrone.evals.metric import families, metric_of

CONFIG = EvalConfig(episodes=16, length=16, pairs=60, horizon=6, return_episodes=8)

SEES = "z is the position: it looks as far apart as it is"
NO_VELOCITY = "z is one frame, which shows no velocity"
NO_CLOCK = "h contains no time"
RETURNS = "imagined and true poses agree, though they are not distances in actions"
HONEST: dict[str, dict[str, str]] = {
    "constant": {},
    "collapsed": {},
    "shrunken": {
        "perception.spearman": SEES,
        "perception.pipe_ends_gap": SEES,
        "perception.position_error": SEES,
        "belief.velocity_r2": "h is filtered by the true physics",
        "belief.velocity_r2_z": NO_VELOCITY,
        "belief.clock_r2": NO_CLOCK,
        "reach.spearman": "d_p ranks places rightly; only its unit is wrong",
        "reach.asymmetry": "it also knows the longer direction",
        "planning.cem.success": "",
    },
    "random": {"belief.velocity_r2_z": NO_VELOCITY},
    "clock": {},
    "Euclidean": {},
    "transposed": {},
    "copy of the last frame": {},
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
    agents = {"exact": Oracle(env), "clock": Always(action, turns=True), "random": Random(action), "constant": Always(action)}
    agent = agents.get(name, NoOp(action))
    rng = torch.Generator().manual_seed(0)
    yield Context(make(env), CONFIG, rng, agents={"agent": agent}, plans_to_goals=False, make_env=lambda count: env)


@cache
def measured(name: str) -> list[dict[str, dict[str, Any]]]:
    """{key: entry} of every metric with a target, in each context."""
    out = []
    for context in contexts(name):
        aimed = [f for f in families() if any(m.target for m in f.metrics) and f.applies(context)]
        results = [suite.compute(family, context)[0] for family in aimed]
        out.append({key: entry for found in results for key, entry in found.items() if "target" in entry})
    return out


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
        assert metric_of(key)
