"""DeepMind Control from pixels; and the errors where it cannot run (those tests need no dm_control)."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from tree import ROOT

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.types import Step
from isochrone.envs.dmc import Dmc, DmcConfig, SingleDmc
from isochrone.workflows import factory

PACKAGES = ("dm_control", "mujoco")
HERE = all(find_spec(name) for name in PACKAGES)
needs = pytest.mark.skipif(not HERE, reason="dm_control is not installed: pip install 'isochrone[dmc]'")


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Any:
    """envs/dmc.py as a module; where dm_control is missing the module is patched as if it were installed."""
    module = importlib.import_module("isochrone.envs.dmc")
    monkeypatch.setattr(module, "_installed", lambda package: True)
    monkeypatch.setattr(module.metadata, "version", lambda name: "3.11.0")
    return module


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environ}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)


# --- without dm_control


def test_without_the_extra_a_config_is_read_and_making_an_env_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("isochrone.envs.dmc")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    config = factory.make_config("planet", {"env": "dmc:walker-walk"})
    with pytest.raises(UserError, match="env 'dmc' needs 'dm_control', which is not installed: pip install 'isochrone"):
        factory.spec_of(config)


# --- what else can be missing


def test_a_mujoco_that_is_too_new(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file.metadata, "version", lambda name: "3.12.0")
    with pytest.raises(UserError, match=r"mujoco 3.12.0 is too new.*pip install 'mujoco<3.12' 'dm_control<1.0.45'"):
        file.Dmc()


@pytest.mark.parametrize(("drawer", "package"), [("egl", "libegl1"), ("osmesa", "libosmesa6"), ("", "libegl1")])
def test_a_library_that_draws_is_missing(file: Any, monkeypatch: pytest.MonkeyPatch, drawer: str, package: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", drawer)
    monkeypatch.setattr(file, "_loads", lambda files: False)
    with pytest.raises(UserError, match=f"MUJOCO_GL={drawer or 'egl'}: .* is missing; install the .*{package}"):
        file.Dmc()


@pytest.mark.parametrize(("here", "chosen"), [("libEGL.so.1", "egl"), ("libOSMesa.so.8", "osmesa")])
def test_what_draws_is_chosen_by_what_is_there(
    file: Any, monkeypatch: pytest.MonkeyPatch, here: str, chosen: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(file, "_loads", lambda files: here in files)
    file._choose_drawer()
    assert os.environ["MUJOCO_GL"] == chosen


KNOWN = (("ball_in_cup", "catch"), ("cartpole", "swingup"), ("cartpole", "swingup_sparse"), ("walker", "walk"))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("cartpole-swingup", ("cartpole", "swingup")),
        ("cartpole-swingup_sparse", ("cartpole", "swingup_sparse")),
        ("cartpole_swingup", ("cartpole", "swingup")),
        ("cup-catch", ("ball_in_cup", "catch")),
        ("cup_catch", ("ball_in_cup", "catch")),
        ("ball_in_cup-catch", ("ball_in_cup", "catch")),
    ],
)
def test_names_of_tasks(file: Any, name: str, task: tuple[str, str]) -> None:
    assert file.find_task(name, KNOWN) == task


@pytest.mark.parametrize("name", ["walker-wlak", "acrobot-swingup", "zebra"])
def test_an_unknown_task_names_the_nearest(file: Any, name: str) -> None:
    near = {"walker-wlak": "did you mean 'walker-walk'", "acrobot-swingup": "did you mean 'cartpole-swingup'"}
    with pytest.raises(
        UserError, match=f"no task '{name}' in DeepMind Control; {near.get(name, 'choose from: ball_in_cup-')}"
    ):
        file.find_task(name, KNOWN)


# --- the real thing


@needs
def test_a_machine_that_cannot_draw() -> None:
    code = (
        "from isochrone.envs.dmc import Dmc, UserError\ntry:\n    Dmc()\nexcept UserError as error:\n    print(error)"
    )
    done = python(code, MUJOCO_GL="disabled")
    assert "no frames with MUJOCO_GL=disabled" in done.stdout, done.stderr
    assert "set it to egl" in done.stdout, done.stderr
    assert done.stderr == ""


@needs
def test_the_registered_one_refuses_what_it_cannot_do() -> None:
    assert registry.get("env", "dmc") is Dmc
    for config, message in (
        (DmcConfig(task="walker-wlak"), "did you mean 'walker-walk'"),
        (DmcConfig(camera=7), r"camera = 7: task 'cartpole-swingup' has cameras -1 to 1"),
        (DmcConfig(task="lqr-lqr_2_1"), "without bounds"),
    ):
        with pytest.raises(UserError, match=message):
            Dmc(config)


@needs
def test_rewards_and_frames_are_those_of_a_loop_by_hand(rng: torch.Generator) -> None:
    from dm_control import suite

    env = Dmc(DmcConfig(task="reacher-easy", state=True), 2)
    assert env.spec.obs == {"image": (3, 64, 64), "state": (6,)}
    assert env.spec.action.size == 2
    rows = [env.reset(5)]
    actions = env.spec.action.sample((4, 2), rng)  # (T, B, A)
    rows += [env.step(action) for action in actions]
    for i in range(2):
        hand = suite.load("reacher", "easy", task_kwargs={"random": 5 + i})
        now, reward = hand.reset(), 0.0
        for t in range(5):
            pixels = hand.physics.render(64, 64, camera_id=0)
            assert np.array_equal(rows[t].obs["image"][i].permute(1, 2, 0).numpy(), pixels)
            state = np.concatenate([np.ravel(x) for x in now.observation.values()])
            assert np.allclose(rows[t].obs["state"][i].numpy(), state, atol=1e-6)
            assert float(rows[t].reward[i]) == pytest.approx(reward)
            if t < 4:
                reward = 0.0
                for _ in range(4):
                    now = hand.step(actions[t, i].double().numpy())
                    reward += now.reward or 0.0
        hand.physics.free()
    env.close()
    env.close()


@needs
def test_same_seed_same_frames_here_and_in_workers(rng: torch.Generator) -> None:
    config = DmcConfig(task="walker-walk", fast_render=True)
    here, there = Dmc(config, 2), Dmc(DmcConfig(task="walker-walk", fast_render=True, workers=2), 2)
    begin = here.reset(11)
    assert not torch.equal(begin.obs["image"][0], begin.obs["image"][1])  # another seed, another start
    assert torch.equal(begin.obs["image"], there.reset(11).obs["image"])
    for action in here.spec.action.sample((3, 2), rng):
        a, b = here.step(action), there.step(action)
        assert torch.equal(a.obs["image"], b.obs["image"])
        assert torch.equal(a.reward, b.reward)
    assert torch.equal(here.reset(11).obs["image"], begin.obs["image"])
    assert not torch.equal(here.reset(12).obs["image"], begin.obs["image"])
    here.close()
    there.close()


@needs
def test_repeats_and_bounds() -> None:
    table = {"cartpole-swingup": 8, "reacher-easy": 4, "cheetah-run": 4, "finger-spin": 2, "cup-catch": 4}
    for task, repeat in {**table, "walker-walk": 2, "pendulum-swingup": 2}.items():
        env = SingleDmc(DmcConfig(task=task))
        assert env.action_repeat == repeat
        env.close()
    env = SingleDmc(DmcConfig(action_repeat=3))
    assert env.action_repeat == 3
    env._low, env._high = np.array([-2.0]), np.array([6.0])
    env.step(torch.zeros(1, 1))
    assert env._env.physics.control()[0] == 2.0  # the middle of the bounds
    env.close()


@needs
def test_an_episode_ends_at_the_time_limit() -> None:
    env = Dmc(DmcConfig(action_repeat=300, fast_render=True), 1)
    rows: list[Step] = [env.reset(0)]
    rows += [env.step(torch.zeros(1, 1)) for _ in range(5)]
    assert [bool(r.first[0]) for r in rows] == [True, False, False, False, False, True]
    assert [bool(r.last[0]) for r in rows] == [False, False, False, False, True, False]
    assert not any(bool(r.terminal[0]) for r in rows)
    assert rows[0].reward[0] == rows[5].reward[0] == 0
    assert all(0 <= float(r.reward[0]) <= 300 for r in rows)
    assert float(rows[4].reward[0]) <= 100
    assert not torch.equal(rows[5].obs["image"], rows[0].obs["image"])  # the random numbers went on
    env.close()


@needs
def test_only_a_task_that_ends_by_itself_is_terminal() -> None:
    env = SingleDmc(DmcConfig(fast_render=True))
    env.reset(0)
    env._env.task.get_termination = lambda physics: 0.0
    row = env.step(torch.zeros(1, 1))
    # the first of eight repeats was the last
    assert row.last.all()
    assert row.terminal.all()
    assert float(row.reward[0]) <= 1
    env.close()


QUIET = """
from isochrone.envs.dmc import Dmc, DmcConfig
env = Dmc(DmcConfig(fast_render=True), 2)
env.reset(0)
if {close}:
    env.close()
"""


@needs
@pytest.mark.parametrize("close", [True, False])
def test_it_ends_without_a_noise(close: bool) -> None:
    done = python(QUIET.format(close=close))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
