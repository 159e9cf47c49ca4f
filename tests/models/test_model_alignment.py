"""The time convention from a counting environment through the replay into a model: every row meets its own action."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from replaywindows import windows_at
from tinymodel import generator, tiny

from isochrone.core import registry
from isochrone.data.collect import collect, random_policy
from isochrone.data.replay import ReplayBuffer
from isochrone.envs.counter import Counter, CounterConfig, read

MODELS = [name for name in registry.names("model") if "h" in registry.get("model", name).provides]


@pytest.fixture(scope="module")
def replay() -> ReplayBuffer:
    env = Counter(CounterConfig(length=4, actions=5, size=16), num_envs=3)
    made, rng = ReplayBuffer(env.spec, 3, 80), generator()
    collect(env, random_policy(env.spec.action, rng), made, 240, rng)
    return made


def watched(model: Any) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Every (z, h, action) that the predictor is asked about in single steps."""
    calls, real = [], model.predict

    def predict(z, h, action):
        calls.append((z, h, action))
        return real(z, h, action)

    model.predict = predict
    return calls


@pytest.mark.parametrize("name", MODELS)
def test_each_row_leads_to_the_next_by_its_own_action(name: str, replay: ReplayBuffer) -> None:
    """h_{t+1} = F(z_t, h_t, a_t) with a_t the action that the next row says led there, and only inside an episode."""
    model, batch = tiny(name, replay.spec), replay.sample(8, 11, generator(1))
    roll = model.observe(batch, {"z", "h"}, generator())
    said = read(batch.obs["state"])
    for b in range(8):
        for t in range(10):
            now, after = roll.h[b, t], roll.h[b, t + 1]
            if batch.first[b, t + 1]:
                assert said.time[b, t + 1] == 0
                torch.testing.assert_close(after, model.z2h(roll.z[b, t + 1]), atol=1e-5, rtol=1e-4)
            else:
                assert said.time[b, t + 1] == said.time[b, t] + 1
                action = replay.spec.action.one_hot(said.action[b, t + 1])
                torch.testing.assert_close(after, model.predict(roll.z[b, t], now, action), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_filtering_meets_the_action_that_led_to_the_frame(name: str, replay: ReplayBuffer) -> None:
    model = tiny(name, replay.spec)
    calls, batch = watched(model), windows_at(replay, [0], [0], 5)
    assert bool(batch.first[0, 0])
    state = model.start(1)
    for t in range(5):
        state = model.update(state, batch.action[:, max(t - 1, 0)], {"image": batch.obs["image"][:, t]})
    said = read(batch.obs["state"])
    for t, (_, _, action) in enumerate(calls):
        if t:
            assert int(action.argmax()) == int(said.action[0, t])


def test_open_loops_use_the_recorded_actions(replay: ReplayBuffer) -> None:
    model, batch = tiny("zhp", replay.spec), replay.sample(8, 11, generator(1))
    calls = watched(model)
    loop = model.observe(batch, {"open_loop"}, generator()).open_loop
    said, steps = read(batch.obs["state"]), calls[-4:]
    for k, (_, _, action) in enumerate(steps):
        for b in range(8):
            for s in range(3):
                if loop.valid[b, s, k]:
                    row = int(loop.start[b, s]) + k + 1
                    assert int(action[b, s].argmax()) == int(said.action[b, row])
