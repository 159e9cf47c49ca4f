"""Gymnasium environments as ours."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import VecEnv
from isochrone.envs.from_gymnasium import GymConfig, GymEnv

LENGTH = 4


class Clock(gymnasium.Env):
    """Shows its time as a grey level, its last action in `info`; ends after LENGTH steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, see: str = "pixels", act: str = "discrete", render_mode: str | None = None) -> None:
        self.see, self.render_mode, self.time, self.taken = see, render_mode, 0, []
        image = spaces.Box(0, 255, (20, 18, 3), np.uint8)
        grey = spaces.Box(0, 255, (1, 20, 18), np.uint8)
        vector = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = {
            "pixels": image,
            "grey": grey,
            "dict": spaces.Dict({"image": image, "vector": vector}),
            "vector": vector,
        }[see]
        self.action_space = {
            "discrete": spaces.Discrete(3, start=1),
            "box": spaces.Box(np.array([0, -2], np.float32), np.array([1, 2], np.float32)),
            "unbounded": spaces.Box(-np.inf, np.inf, (1,)),
            "multi": spaces.MultiDiscrete([2, 2]),
        }[act]

    def _obs(self):
        level = np.full((20, 18, 3), 10 * self.time, np.uint8)
        vector = np.full(2, self.time / 10, np.float32)
        return {
            "pixels": level,
            "grey": level[None, :, :, 0],
            "dict": {"image": level, "vector": vector},
            "vector": vector,
        }[self.see]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        self.taken.append(action)
        return self._obs(), 1.0, self.time >= LENGTH, False, {}

    def render(self):
        return np.full((10, 12, 3), 10 * self.time, np.uint8)


class Blind(Clock):
    """Has neither pixels nor pictures."""

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__("vector", render_mode=render_mode)


class Broken(Clock):
    """Claims pictures but lacks the package that draws them."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__("vector", render_mode=render_mode)

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


for see in ("pixels", "grey", "dict", "vector"):
    gymnasium.register(f"Clock-{see}-v0", Clock, kwargs={"see": see})
for act in ("box", "unbounded", "multi"):
    gymnasium.register(f"Clock-{act}-v0", Clock, kwargs={"act": act})
gymnasium.register("Blind-v0", Blind)
gymnasium.register("Broken-v0", Broken)


@pytest.mark.parametrize("see", ["pixels", "grey", "dict", "vector"])
def test_rows(see: str, rng: torch.Generator) -> None:
    env = GymEnv(GymConfig(id=f"Clock-{see}-v0", size=4), 2)
    assert isinstance(env, VecEnv)
    assert registry.get("env", "gym") is GymEnv
    rows = [env.reset(0)]
    for _ in range(LENGTH * 2 + 1):
        rows.append(env.step(env.spec.action.sample((2,), rng)))
    assert all(r.obs["image"].shape == (2, 3, 4, 4) and r.obs["image"].dtype == torch.uint8 for r in rows)
    assert [int(r.obs["image"][1, 0, 0, 0]) for r in rows] == [0, 10, 20, 30, 40] * 2
    assert set(env.spec.obs) == ({"image", "vector"} if see == "dict" else {"image"})
    if see == "dict":
        assert [round(float(r.obs["vector"][1, 0]), 1) for r in rows] == [0, 0.1, 0.2, 0.3, 0.4] * 2
    assert [bool(r.first[0]) for r in rows] == [True, False, False, False, False] * 2
    assert [bool(r.last[0]) for r in rows] == [False, False, False, False, True] * 2
    assert [bool(r.terminal[0]) for r in rows] == [False, False, False, False, True] * 2
    assert [float(r.reward[0]) for r in rows] == [0, 1, 1, 1, 1] * 2
    env.close()


def test_repeats_add_rewards_and_lengths_truncate() -> None:
    env = GymEnv(GymConfig(id="Clock-pixels-v0", size=2, action_repeat=3), 1)
    env.reset(0)
    idle = torch.eye(3)[:1]
    one, two = env.step(idle), env.step(idle)
    assert one.reward.tolist() == [3]
    assert not one.last[0]
    # the fourth step ended it
    assert two.reward.tolist() == [1]
    assert two.terminal[0]
    env = GymEnv(GymConfig(id="Clock-pixels-v0", size=2, episode_length=2), 1)
    env.reset(0)
    env.step(idle)
    row = env.step(idle)
    assert row.last[0]
    assert not row.terminal[0]
    assert env.step(idle).first[0]


def test_actions_are_translated() -> None:
    env = GymEnv(GymConfig(id="Clock-pixels-v0", size=2), 1)
    env.reset(0)
    env.step(torch.eye(3)[2:])
    assert env._envs.envs[0].unwrapped.taken == [3]  # Discrete(3, start=1)
    box = GymEnv(GymConfig(id="Clock-box-v0", size=2), 1)
    assert box.spec.action.kind == "continuous"
    assert box.spec.action.size == 2
    assert box.spec.action.noop is None
    box.reset(0)
    for a in ([-1.0, -1.0], [0.0, 0.5], [1.0, 1.0]):
        box.step(torch.tensor([a]))
    assert np.array(box._envs.envs[0].unwrapped.taken).tolist() == [[0, -2], [0.5, 1], [1, 2]]
    for bad in ([1.5, 0.0], [float("nan"), 0.0]):
        with pytest.raises(UserError, match="must be"):
            box.step(torch.tensor([bad]))
    with pytest.raises(UserError, match="must be"):
        env.step(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Blind-v0", "has no pixels.*rgb_array"),
        ("Broken-v0", "cannot be rendered: DependencyNotInstalled: pygame is not installed"),
        ("Clock-multi-v0", "MultiDiscrete actions: need Discrete or Box"),
        ("Clock-unbounded-v0", "finite bounds"),
        ("NoSuchThing-v0", "cannot be made"),
        ("no_such_module:Thing-v0", "cannot be made"),
    ],
)
def test_refusals(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GymEnv(GymConfig(id=name))


def test_no_copies() -> None:
    with pytest.raises(UserError, match="at least 1"):
        GymEnv(GymConfig(id="Clock-pixels-v0"), 0)


def test_the_white_box_through_gymnasium_and_back() -> None:
    env = GymEnv(GymConfig(id="isochrone.envs.to_gymnasium:isochrone/WhiteBox-v0"), 2)
    assert env.spec.image == (3, 64, 64)
    assert env.spec.action.size == 5
    assert (env.reset(0).obs["image"] == 255).sum() == 2 * 48


@pytest.mark.slow
def test_workers_give_the_same_rows(rng: torch.Generator) -> None:
    config = GymConfig(id="isochrone.envs.to_gymnasium:isochrone/WhiteBox-v0", episode_length=3)
    here, there = GymEnv(config, 3), GymEnv(replace(config, workers=2), 3)
    assert there.spec == here.spec
    assert isinstance(there, VecEnv)
    rows = [(here.reset(4), there.reset(4))]
    for _ in range(5):
        action = here.spec.action.sample((3,), rng)
        rows.append((here.step(action), there.step(action)))
    for a, b in rows:
        assert torch.equal(a.obs["image"], b.obs["image"])
        assert torch.equal(a.reward, b.reward)
        assert torch.equal(a.first, b.first)
        assert torch.equal(a.last, b.last)
        assert torch.equal(a.terminal, b.terminal)
    assert [bool(b.last[0]) for _, b in rows] == [False, False, False, True, False, False]
    with pytest.raises(UserError, match=r"must be"):
        there.step(torch.zeros(3, 5))
    here.close()
    there.close()


def test_a_worker_knows_only_what_an_import_registers() -> None:
    with pytest.raises(UserError, match="'Clock-pixels-v0' cannot be made"):
        GymEnv(GymConfig(id="Clock-pixels-v0", workers=1), 2)


@pytest.mark.parametrize(("name", "kind", "size"), [("CartPole-v1", "discrete", 2), ("Pendulum-v1", "continuous", 1)])
def test_classic_control_from_pixels(name: str, kind: str, size: int, rng: torch.Generator) -> None:
    pytest.importorskip("pygame", reason="pip install 'isochrone[gym]'")
    env = GymEnv(GymConfig(id=name, action_repeat=2, episode_length=3), 2)
    assert (env.spec.action.kind, env.spec.action.size) == (kind, size)
    rows = [env.reset(1)] + [env.step(env.spec.action.sample((2,), rng)) for _ in range(4)]
    assert torch.equal(rows[0].obs["image"], env.reset(1).obs["image"])
    assert not torch.equal(rows[0].obs["image"], rows[2].obs["image"])
    assert rows[0].first.all()
    assert rows[3].last.all()
    assert rows[4].first.all()
    env.close()
