"""The bouncer: chance where it says chance, memory where it says memory, and pixels that tell nothing else."""

import pytest
import torch

from isochrone.core import config as configs
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.protocols import VecEnv
from isochrone.envs.bouncer import Bouncer, BouncerConfig

SPLIT = BouncerConfig(episode_length=20)
MEMORY = BouncerConfig(variant="memory", cue=2, delay=5, episode_length=20)
BOTH = pytest.mark.parametrize("config", [SPLIT, MEMORY, BouncerConfig(speed=5)], ids=lambda c: f"{c.variant}{c.speed}")


def idle(count: int) -> torch.Tensor:
    return torch.eye(2)[torch.zeros(count, dtype=torch.long)]


def test_registered() -> None:
    assert registry.get("env", "bouncer") is Bouncer
    assert isinstance(Bouncer(), VecEnv)
    config = configs.component_config("env", "bouncer:memory")
    assert config == BouncerConfig(variant="memory")
    assert configs.from_dict(BouncerConfig, configs.to_dict(config)) == config


@BOTH
def test_both_sides_are_equally_likely(config: BouncerConfig) -> None:
    env = Bouncer(config, 4000)
    env.reset(0)
    side = env.state().side
    assert set(side.tolist()) == {-1, 1}
    assert abs((side == 1).sum().item() - 2000) < 4 * 32  # four standard deviations of 4000 tosses
    again = Bouncer(config, 4000)
    again.reset(0)
    again.reset()
    match = (again.state().side == side).sum().item()
    assert abs(match - 2000) < 4 * 32  # the next episode knows nothing of this one


@BOTH
def test_the_two_futures(config: BouncerConfig) -> None:
    left, right = Bouncer(config).frames(torch.tensor([-1, 1]))  # (T, 3, 64, 64)
    same = (left == right).flatten(1).all(1)
    lit = config.cue if config.variant == "memory" else 0
    assert not same[:lit].any()
    assert same[lit : config.turn + 1].all()
    assert not same[config.turn + 1]
    if config.variant == "memory":
        assert config.turn + 1 - lit == config.delay
    assert torch.equal(left, right.flip(-1))
    white = (left == 255).all(1)
    assert (white.sum((1, 2)) == 64).all()  # the whole ball, always


def test_the_ball_falls_turns_and_comes_back() -> None:
    env = Bouncer(BouncerConfig(episode_length=40), 2)
    env.reset(0)
    places = []
    for _ in range(40):
        state = env.state()
        places.append(((state.position[0, 0] - 28) * state.side[0] + 28, state.position[0, 1]))
        env.step(idle(2))
    x, y = ([int(v) for v in values] for values in zip(*places, strict=True))
    assert x[:8] == [28] * 8
    assert y[:8] == list(range(0, 29, 4))
    assert set(y[8:]) == {28}
    assert x[8:15] == list(range(32, 57, 4))
    assert x[15:29] == list(range(52, -1, -4))
    assert x[29] == 4


@pytest.mark.parametrize("speed", range(1, 29))
def test_every_speed_stays_inside(speed: int) -> None:
    env = Bouncer(BouncerConfig(speed=speed, episode_length=150))
    state = env._at(torch.ones(150, dtype=torch.long), torch.arange(150))
    steps = state.position.diff(dim=0).abs()
    assert state.position.min() >= 0
    assert state.position.max() <= 56
    assert steps.max() <= speed


def test_the_lamp_decides_the_side() -> None:
    env = Bouncer(MEMORY, 64)
    image = env.reset(3).obs["image"]
    amber = (image[:, 0] == 255) & (image[:, 2] == 0)  # (B, 64, 64)
    assert (amber.sum((1, 2)) == 64).all()
    side = torch.where(amber[:, :, 32:].any((1, 2)), 1, -1)
    assert torch.equal(side, env.state().side)
    for _ in range(MEMORY.turn + 1):
        image = env.step(idle(64)).obs["image"]
    column = (image == 255).all(1).any(1).float().argmax(-1)
    assert torch.equal(torch.where(column > 28, 1, -1), side)


@BOTH
def test_rows_of_episodes_and_frames(config: BouncerConfig, rng: torch.Generator) -> None:
    count = config.episode_length + 1
    env = Bouncer(config, 3)
    row = env.reset(1)
    for _ in range(2):
        expected = env.frames(env.state().side)
        assert torch.equal(env.frames(env.state().side, 5), expected[:, :5])
        for t in range(count):
            assert torch.equal(row.obs["image"], expected[:, t])
            assert row.obs["image"].dtype == torch.uint8
            assert torch.equal(row.obs["image"], env.draw(env.state()))
            assert (row.first == (t == 0)).all()
            assert (row.last == (t == count - 1)).all()
            assert not row.terminal.any()
            assert not row.reward.any()
            assert (env.state().clock == t).all()
            before = env.state()
            row = env.step(env.spec.action.sample((3,), rng))
            if t < count - 1:
                after = env.transition(before)
                assert torch.equal(env.state().position, after.position)
                assert torch.equal(env.state().side, before.side)


@BOTH
def test_seeds_actions_and_resume(config: BouncerConfig, rng: torch.Generator) -> None:
    envs = [Bouncer(config, 40) for _ in range(3)]
    first = [env.reset(seed) for env, seed in zip(envs, (7, 7, 8), strict=True)]
    sides = [env.state().side for env in envs]
    assert torch.equal(first[0].obs["image"], first[1].obs["image"])
    assert torch.equal(sides[0], sides[1])
    assert not torch.equal(sides[0], sides[2])
    for _ in range(config.episode_length):  # to a last row
        envs[0].step(idle(40))
        envs[1].step(envs[1].spec.action.sample((40,), rng))
    envs[2].load_state_dict(envs[0].state_dict())
    for _ in range(config.episode_length + 3):
        rows = [env.step(envs[1].spec.action.sample((40,), rng)) for env in envs]
        assert torch.equal(rows[0].obs["image"], rows[1].obs["image"])
        assert torch.equal(rows[0].obs["image"], rows[2].obs["image"])
        assert torch.equal(rows[0].first, rows[2].first)
    assert not torch.equal(envs[0].state().side, sides[0])
    with pytest.raises(UserError, match="num_envs = 40, this run 2"):
        Bouncer(config, 2).load_state_dict(envs[0].state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "both"}, "variant = 'both': must be one of split, memory"),
        ({"speed": 0}, "speed = 0: must be at least 1"),
        ({"speed": 29}, "speed = 29: must be at most 28"),
        ({"delay": 0}, "delay = 0: must be at least 1"),
        ({"cue": 0}, "cue = 0: must be at least 1"),
        ({"episode_length": 7}, "episode_length = 7: .* row 8 only; make it at least 8"),
        ({"variant": "memory", "delay": 31}, "episode_length = 32: .* make it at least 33"),
        ({"delai": 3}, "did you mean 'delay'"),
    ],
)
def test_bad_options(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configs.override(BouncerConfig(), changes)


def test_the_shortest_episode_shows_the_turn() -> None:
    left, right = Bouncer(BouncerConfig(episode_length=8)).frames(torch.tensor([-1, 1]))
    assert torch.equal(left[:-1], right[:-1])
    assert not torch.equal(left[-1], right[-1])


@pytest.mark.parametrize("bad", [torch.zeros(2, 2), torch.ones(2, 2), torch.eye(3)[:2], torch.eye(2)[:1]])
def test_bad_actions(bad: torch.Tensor) -> None:
    with pytest.raises(UserError, match="must be"):
        Bouncer(SPLIT, 2).step(bad)


def test_other_refusals() -> None:
    with pytest.raises(UserError, match="at least 1"):
        Bouncer(SPLIT, 0)
    with pytest.raises(UserError, match="make it at least 8"):
        Bouncer(BouncerConfig(episode_length=2))
    with pytest.raises(UserError, match="must be -1"):
        Bouncer(SPLIT).frames(torch.tensor([0]))
    for steps in (0, 22):
        with pytest.raises(UserError, match="has 21 rows"):
            Bouncer(SPLIT).frames(torch.tensor([1]), steps)
