"""What the trial of a Gymnasium environment chooses, and that whatever fails in it is one sentence."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from isochrone.cli import run
from isochrone.core.errors import UserError
from isochrone.envs.from_gymnasium import GymConfig, GymEnv
from isochrone.workflows import dataset, factory
from isochrone.workflows.train import build_all


class Habit(gymnasium.Env):
    """Shows its time as a grey level; the classes below have one habit each."""

    metadata = {"render_modes": ["rgb_array"]}
    action_space = spaces.Discrete(3)
    observation_space: spaces.Space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.t = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def step(self, action):
        self.t += 1
        return self.see(), self.reward(), False, self.t >= 20, {}

    def reward(self):
        return 0.0

    def picture(self):
        return np.full((64, 64, 3), 10 * self.t, np.uint8)

    def see(self):
        return self.picture()

    def render(self):
        return self.picture()


class Stack(Habit):
    observation_space = spaces.Box(0, 255, (4, 64, 64), np.uint8)

    def see(self):
        return np.stack([np.full((64, 64), 10 * max(self.t - k, 0), np.uint8) for k in (3, 2, 1, 0)])


class StackLast(Stack):
    observation_space = spaces.Box(0, 255, (64, 64, 4), np.uint8)

    def see(self):
        return super().see().transpose(1, 2, 0)


class Alpha(Habit):
    observation_space = spaces.Box(0, 255, (64, 64, 4), np.uint8)

    def see(self):
        return np.concatenate([self.picture(), np.full((64, 64, 1), 255, np.uint8)], -1)


class Cameras(Habit):
    observation_space = spaces.Dict(
        {
            "front_depth": spaces.Box(0, 255, (64, 64, 1), np.uint8),
            "front_rgb": spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "arm": spaces.Dict({"angles": spaces.Box(-4, 4, (2,), np.float32), "grip": spaces.Discrete(3)}),
            "mission": spaces.Text(5),
        }
    )

    def see(self):
        arm = {"angles": np.full(2, self.t, np.float32), "grip": self.t % 3}
        depth = np.full((64, 64, 1), 7 + self.t, np.uint8)
        return {"front_depth": depth, "front_rgb": self.picture(), "arm": arm, "mission": "go"}


class Symbols(Habit):
    """Codes of things in a small grid, as in MiniGrid."""

    observation_space = spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)})

    def see(self):
        return {"image": np.arange(147, dtype=np.uint8).reshape(7, 7, 3) % 5 + self.t % 5, "direction": self.t % 4}


class LargeSymbols(Habit):
    observation_space = spaces.Box(0, 255, (25, 25, 3), np.uint8)

    def see(self):
        return np.arange(25 * 25 * 3, dtype=np.int64).reshape(25, 25, 3).astype(np.uint8) % 9 + np.uint8(self.t % 2)


class BlindSymbols(Symbols):
    metadata = {"render_modes": []}


class Vector(Habit):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def see(self):
        return np.full(2, self.t / 100, np.float32)


class Black(Vector):
    def picture(self):
        return np.zeros((64, 64, 3), np.uint8)


class Still(Habit):
    def picture(self):
        return np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))


class NoKeyword(Vector):
    def __init__(self):
        super().__init__("rgb_array")


class NoSeed(Habit):
    def reset(self):
        return Habit.reset(self)


class OldStyle(Habit):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class FourValues(Habit):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class ArrayReward(Habit):
    def reward(self):
        return np.array([1.0], np.float32)


class NanReward(Habit):
    def reward(self):
        return float("nan") if self.t == 7 else 0.0


class NanVector(Cameras):
    def see(self):
        seen = super().see()
        seen["arm"]["angles"][0] = np.nan if self.t == 7 else 0
        return seen


class NotGymnasium:
    observation_space, action_space, metadata = Habit.observation_space, Habit.action_space, {}


class OtherShape(Habit):
    def see(self):
        return self.picture()[:32]


class NoScreen(Vector):
    def render(self):
        raise type("NoSuchDisplayException", (Exception,), {})('Cannot connect to "None"')


class ListOfFrames(Vector):
    def render(self):
        return [self.picture()]


HABITS = [value for value in dict(globals()).values() if isinstance(value, type) and value.__module__ == __name__]
for habit in HABITS:
    gymnasium.register(f"Habit{habit.__name__}-v0", entry_point=habit)


def made(name: str, **options: object) -> GymEnv:
    return GymEnv(GymConfig(id=f"Habit{name}-v0", **options))


def levels(env: GymEnv, steps: int = 5) -> list[int]:
    """First column of the channels after some steps."""
    env.reset(0)
    rows = [env.step(env.spec.action.idle((1,))) for _ in range(steps)]
    return rows[-1].obs["image"][0, :, 0, 0].tolist()


@pytest.mark.parametrize("name", ["Stack", "StackLast"])
def test_a_stack_of_four_frames_keeps_the_newest(name: str) -> None:
    env = made(name)
    assert env.spec.image == (4, 64, 64)
    assert levels(env) == [20, 30, 40, 50]


def test_a_constant_fourth_channel_is_alpha() -> None:
    env = made("Alpha")
    assert env.spec.image == (3, 64, 64)
    assert levels(env) == [50, 50, 50]


def test_the_picture_with_colours_is_shown_and_the_others_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "isochrone"):
        env = made("Cameras", size=62)
    assert "shows 'front_rgb'; others: front_depth (--env.key)" in caplog.text
    assert "left out: mission" in caplog.text
    assert levels(env) == [50, 50, 50]
    assert env.spec.obs == {"image": (3, 62, 62), "arm_angles": (2,), "arm_grip": (3,)}
    row = env.step(env.spec.action.idle((1,)))
    assert row.obs["arm_angles"].tolist() == [[6, 6]]
    assert row.obs["arm_grip"].tolist() == [[1, 0, 0]]


def test_the_key_chooses_the_picture() -> None:
    env = made("Cameras", key="front_depth", vectors="none")
    assert levels(env) == [12, 12, 12]
    assert set(env.spec.obs) == {"image"}
    with pytest.raises(UserError, match="env.key = 'front_rbg'.*did you mean 'front_rgb'"):
        made("Cameras", key="front_rbg")
    with pytest.raises(UserError, match="no picture of that name; it shows none by name"):
        made("Still", key="image")


@pytest.mark.parametrize("name", ["Symbols", "LargeSymbols"])
def test_codes_are_not_taken_for_colours(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "isochrone"):
        env = made(name)
    assert "codes" in caplog.text
    assert levels(env) == [50, 50, 50], "the rendering"
    with pytest.raises(UserError, match="codes cannot be resized to 64x64: use --env.pixels render"):
        made(name, pixels="observation")
    with pytest.raises(UserError, match="cannot render"):
        made("BlindSymbols")


def test_codes_are_used_as_they_are_where_that_is_asked_for() -> None:
    assert made("LargeSymbols", pixels="observation", size=25).spec.image == (3, 25, 25)


def test_the_rendering_is_used_where_that_is_asked_for() -> None:
    assert set(made("Cameras", pixels="render").spec.obs) == {"image"}
    assert set(made("Cameras", pixels="render", vectors="all").spec.obs) == {"image", "arm_angles", "arm_grip"}
    assert set(made("Vector").spec.obs) == {"image"}
    env = made("Vector", vectors="all")
    env.reset(0)
    assert torch.allclose(env.step(env.spec.action.idle((1,))).obs["state"], torch.full((1, 2), 0.01))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Black", r"draws nothing \(every pixel is 0\)"),
        ("Still", "its picture is the same after 100 random actions"),
        ("NoKeyword", "cannot be made: TypeError: .*render_mode"),
        ("NoSeed", "cannot be reset with a seed: TypeError: .*since 0.26"),
        ("OldStyle", r"reset returned uint8 \(64, 64, 3\): reset must return \(observation, info\)"),
        ("FourValues", "step returned 4 values: .*reward, terminated, truncated"),
        ("ArrayReward", r"step returned a reward of float32 \(1,\): it must be one number"),
        ("NotGymnasium", "cannot be made: TypeError: .*inherit from the gymnasium.Env"),
        ("OtherShape", r"returned a picture of uint8 \(32, 64, 3\): its observation space says uint8 \(64, 64, 3\)"),
        ("ListOfFrames", "rendered list: need a uint8 array"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        made(name)
    assert f"environment 'Habit{name}-v0'" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_display_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match="NoSuchDisplayException: Cannot connect.*xvfb-run"):
        made("NoScreen")


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needsgl.py").write_text('raise ImportError("libGL.so.1: cannot open shared object file")\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="ImportError: libGL.so.1: .*apt-get install"):
        GymEnv(GymConfig(id="needsgl:Any-v0"))
    with pytest.raises(UserError, match="install the package that has 'no_such_package'"):
        GymEnv(GymConfig(id="no_such_package:Any-v0"))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("ALE/NoSuch-v5", "gym:ale_py:ALE/NoSuch-v5"), ("NoSuch-v0", "gym:PACKAGE:NoSuch-v0")],
)
def test_an_id_whose_package_was_not_imported(name: str, remedy: str) -> None:
    with pytest.raises(UserError, match=f"write --env {remedy}: the package that registers it must be imported"):
        GymEnv(GymConfig(id=name))


@pytest.mark.parametrize(("name", "what"), [("NanReward", "reward nan"), ("NanVector", "arm_angles nan")])
def test_a_number_that_is_not_finite_names_environment_and_step(name: str, what: str) -> None:
    env = GymEnv(GymConfig(id=f"Habit{name}-v0"), 2)
    env.reset(0)
    with pytest.raises(UserError, match=f"environment 'Habit{name}-v0', number 0, gave {what} at step 7"):
        for _ in range(8):
            env.step(env.spec.action.idle((2,)))


def test_the_process_is_left_as_it_was() -> None:
    before, torch_state, numpy_state = dict(os.environ), torch.get_rng_state(), np.random.get_state()[1].copy()
    made("Cameras").close()
    assert dict(os.environ) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


WORLD = """
import gymnasium, numpy as np
from gymnasium import spaces

class World(gymnasium.Env):
    metadata, action_space = {"render_modes": ["rgb_array"]}, spaces.Discrete(3)
    observation_space = spaces.Dict({
        "image": spaces.Box(0, 255, (64, 64, 3), np.uint8), "speed": spaces.Box(-9, 9, (2,), np.float32)
    })
    def see(self):
        return {"image": np.full((64, 64, 3), 10 * self.t, np.uint8), "speed": np.full(2, self.t, np.float32)}
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}
    def step(self, action):
        self.t += 1
        return self.see(), REWARD, False, self.t >= 20, {}

gymnasium.register("World-v0", entry_point=World)
"""
QUICK = "--data.num-envs 2 --data.rows 55 --data.collect-every 0 --then=".split()


def test_vectors_reach_a_model_that_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worlds_a.py").write_text(WORLD.replace("REWARD", "0.1 * self.t"))
    monkeypatch.syspath_prepend(tmp_path)
    small = {"model.depth": "4", "model.deter": "16", "model.hidden": "16", "data.num_envs": "2", "data.rows": "45"}
    config = factory.make_config("planet_small", {"env": "gym:worlds_a:World-v0", **small})
    spec, objective = build_all(config)
    assert spec.obs == {"image": (3, 64, 64), "speed": (2,)}
    speed = objective.model.encoder.parts["speed"]
    replay = dataset.fill_replay(config, None)
    objective(replay.sample(2, 8, torch.Generator()), torch.Generator())[0].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in speed.parameters())


def test_a_world_that_cannot_be_used_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "worlds_b.py").write_text(WORLD.replace("REWARD", "np.ones(1)"))
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    assert run(["train", "planet_small", "--env", "gym:worlds_b:World-v0", *QUICK, "--run", str(folder)]) == 2
    assert "it must be one number" in capsys.readouterr().err.splitlines()[-1]
    assert not folder.exists()


@pytest.mark.slow
def test_a_worker_tells_what_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "worlds_c.py").write_text(WORLD.replace("REWARD", "0.0"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.INFO, "isochrone"):
        env = GymEnv(GymConfig(id="worlds_c:World-v0", workers=2), 2)
    assert caplog.text.count("vectors beside the picture: speed") == 1
    assert env.reset(0).obs["speed"].shape == (2, 2)
    env.close()
