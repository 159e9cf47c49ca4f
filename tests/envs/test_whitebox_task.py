"""What the white box is rewarded for: marks, arrivals, ends, pixels; and without a task nothing has changed."""

import hashlib

import pytest
import torch

from isochrone.core import config as configs
from isochrone.core.errors import UserError
from isochrone.envs.whitebox import BoxState, TaskState, WhiteBox, WhiteBoxConfig, maps
from isochrone.envs.whitebox.draw import NOISE_PEAK, background
from isochrone.envs.whitebox.task import GOAL, HAZARD, ITEM

pytestmark = pytest.mark.slow

TASKS = ("reach", "avoid", "collect")
# (options, digest of 30 rows of 4 environments), recorded before there were tasks
BEFORE: list[tuple[dict, str]] = [
    ({"map": "pipes"}, "78f38e4fd42d3953"),
    ({"map": "medley", "momentum": True}, "7e2c87c7595f099b"),
    ({"map": "zones", "actions": "continuous"}, "58d3470b418a17f3"),
    ({"map": "occluder", "start": "3,12"}, "40f3d945a9b49715"),
    ({"map": "one-way", "noise": 0.5, "actions": "continuous", "momentum": True}, "3647081da940e473"),
]


def make(task: str, name: str = "four-rooms", count: int = 8, **options: object) -> WhiteBox:
    return WhiteBox(WhiteBoxConfig(map=name, task=task, **options), count)  # type: ignore[arg-type]


def marks(w: WhiteBox) -> TaskState:
    task = w.state().task
    assert task is not None
    return task


def corner(task: TaskState) -> torch.Tensor:
    """px of every mark (B, M, 2)."""
    return torch.stack((task.cells % 16, task.cells // 16), -1) * 4.0


def coloured(image: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """Pixels of exactly this colour (..., 64, 64)."""
    return (image == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(-3)


@pytest.mark.parametrize(("options", "digest"), BEFORE, ids=lambda v: str(v))
def test_without_a_task_not_a_bit_has_changed(options: dict, digest: str) -> None:
    w = WhiteBox(WhiteBoxConfig(**options, episode_length=7), 4)
    rng = torch.Generator().manual_seed(5)
    digests, row = hashlib.sha256(), w.reset(11)
    for _ in range(30):
        s = w.state()
        assert s.task is None
        parts = [row.reward, row.first, row.last, row.terminal, s.position, s.velocity, s.clock, s.noise]
        if "noise" not in options:  # the pattern comes from a Fourier transform, whose last bits the machine decides
            parts.append(row.obs["image"])
        for part in parts:
            digests.update(part.numpy().tobytes())
        row = w.step(w.spec.action.sample((4,), rng))
    assert digests.hexdigest()[:16] == digest


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "options",
    [{"map": "cabin"}, {"map": "zones", "momentum": True}, {"map": "zones", "actions": "continuous"}],
    ids=str,
)
@pytest.mark.slow
def test_rows_say_what_happened(task: str, options: dict, rng: torch.Generator) -> None:
    """Reward and end of every row, computed again from positions alone."""
    w = WhiteBox(WhiteBoxConfig(**options, task=task, episode_length=60, hazards=6), 64)  # type: ignore[arg-type]
    row, paid, ended = w.reset(2), 0, 0
    before = marks(w)
    action = w.spec.action.sample((64,), rng)
    for _ in range(150):
        now = marks(w)
        here = ((w.state().position[:, None] - corner(now)).abs() < 2).all(-1)  # (B, M)
        fresh = row.first[:, None]
        if task == "collect":
            assert torch.equal(now.left, before.left & ~here | fresh)
            got = (before.left & here & ~fresh).sum(-1).float()
            over = ~now.left.any(-1)
        else:
            got = torch.where(row.first, 0.0, (here[:, 0] * 1.0) - (here[:, 1:] & now.left[:, 1:]).any(-1) * 1.0)
            over = (here[:, 1:] & now.left[:, 1:]).any(-1)
        assert torch.equal(row.reward, got)
        assert torch.equal(row.terminal, over)
        assert torch.equal(row.last, over | (w.state().clock >= 60))
        changed = (now.cells != before.cells).any(-1)
        assert not (changed & ~row.first).any()
        assert not (here & fresh).any()  # no episode begins on a mark
        paid, ended = paid + int((got > 0).sum()), ended + int(over.sum())
        turn = torch.rand(64, 1, generator=rng) < 0.3  # keep going, so that the boxes get about
        action = torch.where(turn, w.spec.action.sample((64,), rng), action)
        before, old = now, row
        row = w.step(action)
        assert torch.equal(row.first, old.last)
    assert paid > 3
    assert ended > 2 or task != "avoid"


def test_staying_at_the_goal_pays() -> None:
    w = make("reach", "empty", 1, start="3,3", goal="5,3", episode_length=5)
    row = w.reset(0)
    rewards, last = row.reward.tolist(), []
    for action in (4, 4, 0, 1, 2):
        row = w.step(torch.eye(5)[[action]])
        rewards += row.reward.tolist()
        last.append((bool(row.last), bool(row.terminal)))
    assert rewards == [0, 0, 1, 1, 0, 1]
    assert last == [(False, False)] * 4 + [(True, False)]
    assert w.best_return(w.cell(3, 3).replace(task=marks(w))).tolist() == [4]


def test_a_last_row_may_be_terminal_at_the_time_limit() -> None:
    w = make("collect", "corridor", 1, start="3,7", items=1, episode_length=1)
    w.reset(0)
    here = w.state().replace(task=TaskState(torch.tensor([[7 * 16 + 4]]), torch.tensor([[True]])))
    w.set_state(here)
    row = w.step(torch.eye(5)[[4]])
    assert row.reward.tolist() == [1]
    assert row.last.all()
    assert row.terminal.all()
    assert w.step(torch.eye(5)[[4]]).first.all()
    assert marks(w).left.all()


@pytest.mark.parametrize("name", maps.names())
def test_no_other_thing_has_the_colour_of_a_mark(name: str) -> None:
    still = background(maps.load(name))
    assert max(still.max(), NOISE_PEAK) < min(max(colour) for colour in (GOAL, HAZARD, ITEM))
    assert len({GOAL, HAZARD, ITEM, (255, 255, 255)}) == 4


@pytest.mark.parametrize("options", [{}, {"noise": 1.0}, {"actions": "continuous"}], ids=str)
def test_marks_stick_out_under_the_box(options: dict) -> None:
    w = make("reach", "empty", 3, goal="5,4", **options)
    w.reset(0)
    far, near, on = (w.cell(*cell).position for cell in ((12, 12), (6, 4), (5, 4)))
    w.set_state(w.at(torch.cat((far, near, on))))  # the marks stay
    frame = w.draw(w.state())
    mark = coloured(frame, GOAL)
    assert mark[0, 15:21, 19:25].all()
    assert mark[0].sum() == 36
    assert mark[1].sum() == 36 - 4
    assert mark[2].sum() == 36 - 16
    assert (frame == 255).all(1).sum((1, 2)).tolist() == [16] * 3
    buffer = torch.empty_like(frame)
    assert torch.equal(w.draw(w.state(), buffer), frame)
    assert torch.equal(buffer, frame)
    assert torch.equal(w.draw(w.state()[None]), frame[None])
    plain = WhiteBox(WhiteBoxConfig(map="empty", **options), 1)
    assert torch.equal(torch.where(mark[:, None], plain.draw(w.state()), frame), plain.draw(w.state()))


def test_marks_at_the_rim_and_beside_an_occluder() -> None:
    w = make("collect", "occluder", 1, items=3)
    cells = torch.tensor([[0, 255, 5 * 16 + 5]])
    frame = w.draw(w.cell(12, 3).replace(task=TaskState(cells, torch.ones(1, 3, dtype=torch.bool))))
    mark = coloured(frame, ITEM)[0]
    assert mark[:5, :5].all()
    assert mark[59:, 59:].all()
    assert mark[19:25, 19:24].all()
    assert not mark[19:25, 24].any()
    assert mark.sum() == 25 + 25 + 30


def test_a_taken_item_vanishes() -> None:
    w = make("collect", "corridor", 1, items=2, start="2,7")
    w.reset(0)
    cells = torch.tensor([[7 * 16 + 4, 7 * 16 + 9]])
    w.set_state(w.state().replace(task=TaskState(cells, torch.ones(1, 2, dtype=torch.bool))))
    shown = []
    for action in (4, 4, 4, 4):
        row = w.step(torch.eye(5)[[action]])
        shown.append((int(coloured(row.obs["image"], ITEM).sum()), float(row.reward)))
    assert shown == [(68, 0), (36, 1), (36, 0), (36, 0)]  # beside the first one the box covers a column of it


def test_hazards_have_their_colour_and_leave_a_way() -> None:
    w = make("avoid", "maze", 200, hazards=12, episode_length=300)
    w.reset(1)
    assert (w.best_return() > 0).all()
    task, image = marks(w), w.draw(w.state())
    for b in range(0, 200, 23):
        shows = coloured(image[b], HAZARD)
        for m in range(1, 13):
            x, y = (int(v) for v in corner(task)[b, m])
            assert bool(shows[y + 1 : y + 3, x + 1 : x + 3].all()) == bool(task.left[b, m])
    cells = torch.where(task.left, task.cells, torch.arange(1000, 1013))
    assert all(len(set(row)) == 13 for row in cells.tolist())  # goal and hazards lie on different cells
    assert task.left.float().mean() > 0.9


def test_fewer_hazards_where_there_is_no_room() -> None:
    w = make("avoid", "corridor", 50, start="0,7", goal="12,7", hazards=5)
    w.reset(0)
    assert (marks(w).left.sum(-1) == 4).all()  # the goal, and the three cells behind it
    assert (w.best_return() == 100 - 12 + 1).all()


def test_what_cannot_be_reached_is_never_marked(tmp_path) -> None:
    file = tmp_path / "split.txt"
    file.write_text("...#...#.\n")  # the last cell reaches nothing
    for task in TASKS:
        w = WhiteBox(WhiteBoxConfig(map_file=str(file), task=task, hazards=1, items=2), 200)  # type: ignore[arg-type]
        w.reset(0)
        state, task_ = w.state(), marks(w)
        goals = w.at(corner(task_))
        away = w.distance(state[:, None], goals)
        assert torch.isfinite(away[task_.left]).all()
        assert (away[task_.left] > 0).all()
        assert task_.left[:, 0].all()
        assert state.position[:, 0].unique().numel() == 6
    fixed = WhiteBox(WhiteBoxConfig(map_file=str(file), task="reach", goal="3,7"), 200)
    fixed.reset(0)
    assert fixed.state().position[:, 0].unique().tolist() == [16, 20]  # the frame begins at column 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "avoid", "hazards": 0}, "hazards = 0: must be at least 1"),
        ({"task": "collect", "items": 6}, "items = 6: must be at most 5"),
        ({"goal": "3,3"}, "goal = '3,3': task 'none' has no goal"),
        ({"task": "collect", "goal": "3,3"}, "goal = '3,3': task 'collect' has no goal"),
        ({"task": "reach", "goal": "here"}, "goal = 'here': must be 'random' or a cell"),
        ({"task": "reach", "goal": "16,0"}, "outside"),
        ({"task": "reach", "goal": "7,0"}, "is a wall"),
        ({"task": "reach", "goal": "14,1"}, "mouth of a pipe"),
        ({"task": "avoid", "goal": "1,1"}, "goal = '1,1': shows 'A' on map 'pipes', and a mark lies on"),
        ({"task": "reach", "goal": "3,3", "start": "3,3"}, "goal = '3,3' cannot be reached from start = '3,3'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WhiteBox(WhiteBoxConfig(map="pipes", **options))


def test_a_goal_behind_a_wall_and_a_map_without_room(tmp_path) -> None:
    file = tmp_path / "split.txt"
    file.write_text("..#..\n")  # columns 5 to 9 of the frame
    with pytest.raises(UserError, match="goal = '9,7' cannot be reached from start = '5,7'"):
        WhiteBox(WhiteBoxConfig(map_file=str(file), task="reach", start="5,7", goal="9,7"))
    file.write_text(".#.\n")
    with pytest.raises(UserError, match="no open cell can be reached from start = 'random' by moving on map 'split'"):
        WhiteBox(WhiteBoxConfig(map_file=str(file), task="collect"))


@pytest.mark.parametrize("task", TASKS)
def test_seeds_purity_and_exact_resume(task: str, rng: torch.Generator) -> None:
    a, b, c = (make(task, "cabin", 6, episode_length=9, hazards=2) for _ in range(3))
    assert torch.equal(a.reset(7).obs["image"], b.reset(7).obs["image"])
    c.reset(8)
    assert torch.equal(marks(a).cells, marks(b).cells)
    assert not torch.equal(marks(a).cells, marks(c).cells)
    for _ in range(25):
        action, before = a.spec.action.sample((6,), rng), a.state()
        expected, old = a.transition(before, action), marks(a).left.clone()
        row = a.step(action)
        assert before.task is not None
        assert torch.equal(before.task.left, old)
        b.step(action)
        same = ~row.first
        assert torch.equal(row.obs["image"][same], a.draw(expected)[same])
        assert torch.equal(row.reward[same], a.reward(before, expected)[same])
    saved = a.state_dict()
    c.load_state_dict(saved)
    for _ in range(12):
        rows = [w.step(action) for w in (a, b, c)]
        assert all(torch.equal(rows[0].obs["image"], r.obs["image"]) for r in rows)
        assert all(torch.equal(rows[0].reward, r.reward) for r in rows)
    with pytest.raises(UserError, match="other marks than task 'none'"):
        make("none", "cabin", 6).load_state_dict(saved)


def test_states_with_and_without_marks() -> None:
    w, plain = make("avoid", "pipes", 2), make("none", "pipes", 2)
    w.reset(0)
    states = BoxState.stack([w.state(), w.transition(w.state(), torch.eye(5)[[1, 2]])], 1)
    assert states.task is not None
    assert states.task.cells.shape == (2, 2, 4)
    assert states[0].task is not None
    places = w.places()
    assert places.task is None
    assert torch.equal(w.draw(places), plain.draw(places))
    assert torch.equal(w.table(), plain.table())
    assert not w.reward(places, places).any()
    for other, many in ((plain, "'none' has no"), (make("avoid", "pipes", 2, hazards=5), "'avoid' has 6")):
        with pytest.raises(UserError, match=f"state has 4 marked cells per box, task {many}"):
            other.set_state(w.state())


def test_config_survives_its_file() -> None:
    config = configs.override(WhiteBoxConfig(), {"task": "avoid", "hazards": "5", "goal": "3,4"})
    assert configs.from_dict(WhiteBoxConfig, configs.to_dict(config)) == config
    with pytest.raises(UserError, match="task = 'fetch': must be one of none, reach, avoid, collect"):
        configs.override(config, {"task": "fetch"})
