"""The vector environment: rows, resets, seeds, exact resume, and refusals."""

import pytest
import torch

from isochrone.core import config as configs
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import GroundTruth, VecEnv
from isochrone.envs.whitebox import BoxState, WhiteBox, WhiteBoxConfig

VARIANTS: list[dict] = [
    {"map": "pipes"},
    {"map": "medley", "momentum": True},
    {"map": "zones", "actions": "continuous"},
    {"map": "occluder", "noise": 0.7},
    {"map": "one-way", "actions": "continuous", "momentum": True, "noise": 0.3},
]


def equal(a: BoxState, b: BoxState) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("position", "velocity", "clock", "noise"))


def test_registered() -> None:
    assert registry.get("env", "whitebox") is WhiteBox
    config = configs.component_config("env", "whitebox:maze")
    assert config == WhiteBoxConfig(map="maze")
    assert configs.from_dict(WhiteBoxConfig, configs.to_dict(config)) == config
    with pytest.raises(UserError, match="noise"):
        configs.override(config, {"noise": "2"})


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_step_is_transition_then_draw(options: dict, rng: torch.Generator) -> None:
    env = WhiteBox(WhiteBoxConfig(**options, episode_length=50), 5)
    assert isinstance(env, VecEnv)
    assert isinstance(env, GroundTruth)
    row = env.reset(3)
    assert row.obs["image"].shape == (5, 3, 64, 64)
    assert row.obs["image"].dtype == torch.uint8
    assert row.first.all()
    assert not row.last.any()
    assert not row.terminal.any()
    assert (row.reward == 0).all()
    for _ in range(20):
        action = env.spec.action.sample((5,), rng)
        before = env.state()
        expected = env.transition(before, action)
        row = env.step(action)
        assert equal(env.state(), expected)
        assert torch.equal(row.obs["image"], env.draw(expected))
        assert not row.first.any()


def test_rows_of_an_episode(rng: torch.Generator) -> None:
    env = WhiteBox(WhiteBoxConfig(map="empty", episode_length=3), 2)
    rows = [env.reset(0)]
    for _ in range(7):
        rows.append(env.step(env.spec.action.sample((2,), rng)))
    assert [bool(r.first[0]) for r in rows] == [True, False, False, False] * 2
    assert [bool(r.last[0]) for r in rows] == [False, False, False, True] * 2
    assert not any(r.terminal.any() for r in rows)


def test_the_action_of_a_last_row_is_ignored() -> None:
    def run(action: int) -> BoxState:
        env = WhiteBox(WhiteBoxConfig(episode_length=1), 4)
        env.reset(1)
        env.step(torch.eye(5)[[0] * 4])
        env.step(torch.eye(5)[[action] * 4])
        return env.state()

    assert equal(run(1), run(4))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_seeds_and_exact_resume(options: dict) -> None:
    config = WhiteBoxConfig(**options, episode_length=4)
    actions = WhiteBox(config).spec.action.sample((15, 6), torch.Generator().manual_seed(1))
    a, b, c = (WhiteBox(config, 6) for _ in range(3))
    assert torch.equal(a.reset(7).obs["image"], b.reset(7).obs["image"])
    assert not torch.equal(a.state().position, c.reset(8) and c.state().position)
    for action in actions[:7]:
        assert torch.equal(a.step(action).obs["image"], b.step(action).obs["image"])
    saved = a.state_dict()
    assert all(isinstance(x, torch.Tensor) for x in saved.values())
    c.load_state_dict(saved)
    for action in actions[7:]:
        one, two = a.step(action), c.step(action)
        assert torch.equal(one.obs["image"], two.obs["image"])
        assert torch.equal(one.first, two.first)
        assert equal(a.state(), c.state())
    with pytest.raises(UserError, match="num_envs = 6, this run 2"):
        WhiteBox(config, 2).load_state_dict(saved)


def test_frames_are_never_overwritten(rng: torch.Generator) -> None:
    env = WhiteBox(WhiteBoxConfig(map="empty"), 3)
    image = env.reset(0).obs["image"]
    copy = image.clone()
    for _ in range(5):
        env.step(env.spec.action.sample((3,), rng))
    assert torch.equal(image, copy)


def test_starts(rng: torch.Generator) -> None:
    env = WhiteBox(WhiteBoxConfig(map="pipes"), 4000)
    env.reset(0)
    index = env.index(env.state())
    assert (index >= 0).all()
    assert len(index.unique()) == len(env.places().clock)
    fixed = WhiteBox(WhiteBoxConfig(map="pipes", start="3,12"), 4)
    fixed.reset(0)
    assert (fixed.state().position == torch.tensor([12.0, 48.0])).all()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("7,0", "is a wall"),
        ("14,1", "mouth of a pipe"),
        ("16,0", "outside"),
        ("-1,0", "outside"),
        ("a", "must be 'random'"),
    ],
)
def test_bad_starts(start: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WhiteBox(WhiteBoxConfig(map="pipes", start=start))


def test_set_state() -> None:
    env = WhiteBox(WhiteBoxConfig(map="four-rooms"), 2)
    env.reset(0)
    state = env.at(torch.tensor([[0, 0], [4, 8]]))
    env.set_state(state)
    assert equal(env.state(), state)
    env.step(torch.eye(5)[[4, 2]])
    assert env.state().position.tolist() == [[4, 0], [4, 12]]
    with pytest.raises(UserError, match="lies in a wall"):
        env.set_state(env.at(torch.tensor([[0, 0], [28, 0]])))
    with pytest.raises(UserError, match="lies in a wall"):
        env.set_state(env.at(torch.tensor([[0, 0], [61, 0]])))
    with pytest.raises(UserError, match=r"must be \(2, 2\)"):
        env.set_state(env.at(torch.tensor([[0, 0]])))


@pytest.mark.parametrize(
    ("actions", "bad"),
    [
        ("discrete", [0.0, 0.0, 0.0, 0.0, 0.0]),
        ("discrete", [1.0, 1.0, 0.0, 0.0, 0.0]),
        ("discrete", [0.5, 0.5, 0.0, 0.0, 0.0]),
        ("discrete", [float("nan"), 1.0, 0.0, 0.0, 0.0]),
        ("continuous", [1.01, 0.0]),
        ("continuous", [0.0, float("nan")]),
        ("continuous", [float("-inf"), 0.0]),
    ],
)
def test_illegal_actions(actions: str, bad: list[float]) -> None:
    env = WhiteBox(WhiteBoxConfig(actions=actions), 2)  # type: ignore[arg-type]
    env.reset(0)
    good = env.spec.action.idle((1,))
    with pytest.raises(UserError, match="is not legal: must be"):
        env.step(torch.cat((good, torch.tensor([bad]))))
    with pytest.raises(UserError, match=r"must be \(2, "):
        env.step(good)


def test_num_envs_below_one() -> None:
    with pytest.raises(UserError, match="at least 1"):
        WhiteBox(WhiteBoxConfig(), 0)
