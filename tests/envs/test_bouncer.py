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
    assert registry.get("env", "bouncer") is Bouncer and isinstance(Bouncer(), VecEnv)
    config = configs.component_config("env", "bouncer:memory")
    assert config == BouncerConfig(variant="memory")
    assert configs.from_dict(BouncerConfig, configs.to_dict(config)) == config


@BOTH
def test_both_sides_are_equally_likely(config: BouncerConfig) -> None:
    world = Bouncer(config, 4000)
    world.reset(0)
    side = world.state().side
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
    assert not same[:lit].any() and same[lit : config.turn + 1].all()
    assert not same[config.turn + 1]
    if config.variant == "memory":
        assert config.turn + 1 - lit == config.delay
    assert torch.equal(left, right.flip(-1))
    white = (left == 255).all(1)
    assert (white.sum((1, 2)) == 64).all()  # the whole ball, always


def test_the_ball_falls_turns_and_comes_back() -> None:
    world = Bouncer(BouncerConfig(episode_length=40), 2)
    world.reset(0)
    places = []
    for _ in range(40):
        state = world.state()
        places.append(((state.position[0, 0] - 28) * state.side[0] + 28, state.position[0, 1]))
        world.step(idle(2))
    x, y = ([int(v) for v in values] for values in zip(*places, strict=True))
    assert x[:8] == [28] * 8 and y[:8] == list(range(0, 29, 4)) and set(y[8:]) == {28}
    assert x[8:15] == list(range(32, 57, 4)) and x[15:29] == list(range(52, -1, -4)) and x[29] == 4


@pytest.mark.parametrize("speed", range(1, 29))
def test_every_speed_stays_inside(speed: int) -> None:
    world = Bouncer(BouncerConfig(speed=speed, episode_length=150))
    state = world._at(torch.ones(150, dtype=torch.long), torch.arange(150))
    steps = state.position.diff(dim=0).abs()
    assert state.position.min() >= 0 and state.position.max() <= 56 and steps.max() <= speed


def test_the_lamp_decides_the_side() -> None:
    world = Bouncer(MEMORY, 64)
    image = world.reset(3).obs["image"]
    amber = (image[:, 0] == 255) & (image[:, 2] == 0)  # (B, 64, 64)
    assert (amber.sum((1, 2)) == 64).all()
    told = torch.where(amber[:, :, 32:].any((1, 2)), 1, -1)
    assert torch.equal(told, world.state().side)
    for _ in range(MEMORY.turn + 1):
        image = world.step(idle(64)).obs["image"]
    column = (image == 255).all(1).any(1).float().argmax(-1)
    assert torch.equal(torch.where(column > 28, 1, -1), told)


@BOTH
def test_rows_of_episodes_and_frames(config: BouncerConfig, rng: torch.Generator) -> None:
    count = config.episode_length + 1
    world = Bouncer(config, 3)
    row = world.reset(1)
    for _ in range(2):
        expected = world.frames(world.state().side)
        assert torch.equal(world.frames(world.state().side, 5), expected[:, :5])
        for t in range(count):
            assert torch.equal(row.obs["image"], expected[:, t]) and row.obs["image"].dtype == torch.uint8
            assert torch.equal(row.obs["image"], world.draw(world.state()))
            assert (row.first == (t == 0)).all() and (row.last == (t == count - 1)).all()
            assert not row.terminal.any() and not row.reward.any()
            assert (world.state().clock == t).all()
            before = world.state()
            row = world.step(world.spec.action.sample((3,), rng))
            if t < count - 1:
                after = world.transition(before)
                assert torch.equal(world.state().position, after.position)
                assert torch.equal(world.state().side, before.side)


@BOTH
def test_seeds_actions_and_resume(config: BouncerConfig, rng: torch.Generator) -> None:
    worlds = [Bouncer(config, 40) for _ in range(3)]
    first = [world.reset(seed) for world, seed in zip(worlds, (7, 7, 8), strict=True)]
    sides = [world.state().side for world in worlds]
    assert torch.equal(first[0].obs["image"], first[1].obs["image"])
    assert torch.equal(sides[0], sides[1]) and not torch.equal(sides[0], sides[2])
    for _ in range(config.episode_length):  # to a last row
        worlds[0].step(idle(40))
        worlds[1].step(worlds[1].spec.action.sample((40,), rng))
    worlds[2].load_state_dict(worlds[0].state_dict())
    for _ in range(config.episode_length + 3):
        rows = [world.step(worlds[1].spec.action.sample((40,), rng)) for world in worlds]
        assert torch.equal(rows[0].obs["image"], rows[1].obs["image"])
        assert torch.equal(rows[0].obs["image"], rows[2].obs["image"]) and torch.equal(rows[0].first, rows[2].first)
    assert not torch.equal(worlds[0].state().side, sides[0])
    with pytest.raises(UserError, match="40 worlds, this run has 2"):
        Bouncer(config, 2).load_state_dict(worlds[0].state_dict())


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
    assert torch.equal(left[:-1], right[:-1]) and not torch.equal(left[-1], right[-1])


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
