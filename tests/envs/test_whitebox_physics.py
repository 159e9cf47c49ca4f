"""Physics against a second, slow description of it, and against what must never happen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slowbox import SlowBox
from torch import Tensor

from isochrone.envs.whitebox import BoxState, WhiteBox, WhiteBoxConfig, maps

pytestmark = pytest.mark.slow


def make(name: str = "empty", count: int = 1, **options: object) -> WhiteBox:
    return WhiteBox(WhiteBoxConfig(map=name, **options), count)  # type: ignore[arg-type]


def drawn(tmp_path, text: str, **options: object) -> WhiteBox:
    file = tmp_path / "map.txt"
    file.write_text(text)
    return WhiteBox(WhiteBoxConfig(map_file=str(file), **options), 1)  # type: ignore[arg-type]


def act(w: WhiteBox, state: BoxState, *names: str) -> BoxState:
    for name in names:
        action = torch.eye(5)[w.spec.action.names.index(name)]
        state = w.transition(state, action.expand(len(state.clock), -1))
    return state


def cell(state: BoxState) -> tuple[float, float]:
    x, y = state.position[0].tolist()
    return x / 4, y / 4


@pytest.mark.parametrize("name", maps.names())
@pytest.mark.parametrize("momentum", [False, True])
def test_every_transition_equals_the_reference(name: str, momentum: bool) -> None:
    w = make(name, momentum=momentum)
    slow = SlowBox(w.map.rows, momentum)
    nodes = slow.nodes()
    table = torch.tensor(nodes, dtype=torch.float32)
    state = w.at(table[:, :2] * 2).replace(velocity=table[:, 2:] * 4)
    for action in range(5):
        one_hot = torch.eye(5)[action].expand(len(nodes), -1)
        new = w.transition(state, one_hot)
        moves = [slow.step(node, action) for node in nodes]
        expected = torch.tensor([node for node, _ in moves], dtype=torch.float32)
        assert torch.equal(new.position, expected[:, :2] * 2)
        assert torch.equal(new.velocity, expected[:, 2:] * 4)
        assert w.teleported(state, one_hot, new).tolist() == [piped for _, piped in moves]


def test_moves_walls_and_noop() -> None:
    w = make("two-rooms")
    middle = w.cell(6, 7)
    assert cell(act(w, middle, "right")) == (7, 7)  # the gap
    assert cell(act(w, w.cell(6, 6), "right")) == (6, 6)  # the wall
    assert cell(act(w, w.cell(0, 0), "left", "up")) == (0, 0)  # the frame
    assert cell(act(w, middle, "stay")) == (6, 7)
    assert cell(act(w, middle, "up", "down", "left", "right")) == (6, 7)
    assert not w.moved(middle, act(w, middle, "stay"))[0]


def test_two_way_and_one_way_pipes() -> None:
    w = make("pipes")
    before = w.cell(1, 2)
    after = act(w, before, "up")
    assert cell(after) == (14, 14)
    assert w.teleported(before, torch.eye(5)[1:2], after)[0]
    assert cell(act(w, after, "stay")) == (14, 14)  # resting on an end is no entering
    assert cell(act(w, after, "left", "right")) == (1, 1)  # coming back is
    assert cell(act(w, w.cell(14, 2), "up")) == (1, 14)
    assert cell(act(w, w.cell(1, 13), "down")) == (1, 14)  # an exit leads nowhere
    assert w.displacement(before, after)[0] == pytest.approx(4 * (13**2 + 12**2) ** 0.5)


def test_doors_open_one_way(tmp_path) -> None:
    w = drawn(tmp_path, "...\n.>.\n...\n")
    x, y = 7, 7  # the door
    assert cell(act(w, w.cell(x - 1, y), "right")) == (x, y)
    assert cell(act(w, w.cell(x, y), "right")) == (x + 1, y)
    for name in ("left", "up", "down"):
        assert cell(act(w, w.cell(x, y), name)) == (x, y)
    assert cell(act(w, w.cell(x + 1, y), "left")) == (x + 1, y)
    assert cell(act(w, w.cell(x, y - 1), "down")) == (x, y - 1)
    assert cell(act(w, w.cell(x, y + 1), "up")) == (x, y + 1)


def test_zones(tmp_path) -> None:
    w = drawn(tmp_path, ".~~.++.#.\n.........\n")
    y, x = 7, 3
    assert cell(act(w, w.cell(x, y), "right")) == (x + 1, y)
    assert cell(act(w, w.cell(x + 1, y), "right")) == (x + 1.5, y)
    assert cell(act(w, w.cell(x + 1, y), *["right"] * 4)) == (x + 3, y)
    assert cell(act(w, w.cell(x + 4, y), "right")) == (x + 6, y)
    assert cell(act(w, w.cell(x + 5, y), "right")) == (x + 6, y)  # two cells, but a wall


def test_momentum_glides_and_stops_at_walls() -> None:
    w = make("empty", momentum=True)
    state = act(w, w.cell(4, 4), "right")
    assert cell(state) == (5, 4)
    assert state.velocity.tolist() == [[4, 0]]
    state = act(w, state, "stay", "stay")
    assert cell(state) == (7, 4)
    state = act(w, state, "up")
    assert cell(state) == (8, 3)
    assert state.velocity.tolist() == [[4, -4]]
    state = act(w, state, "left")
    assert cell(state) == (8, 2)
    assert state.velocity.tolist() == [[0, -4]]
    state = act(w, state, *["stay"] * 4)
    assert cell(state) == (8, 0)
    assert state.velocity.tolist() == [[0, 0]]


def test_any_leading_shape() -> None:
    w = make("pipes", 3)
    state = w.reset(0) and w.state()
    grid = BoxState(*(torch.stack([x, x]) for x in (state.position, state.velocity, state.clock, state.noise)))
    action = w.spec.action.sample((2, 3), torch.Generator().manual_seed(0))
    new = w.transition(grid, action)
    assert torch.equal(new.position[1], w.transition(state, action[1]).position)
    assert w.draw(new).shape == (2, 3, 3, 64, 64)
    assert w.distance(new, grid).shape == (2, 3)
    assert w.index(new).shape == (2, 3)


# --- continuous ------------------------------------------------------------------------------------------------------


def overlaps(position: Tensor, cells: list[tuple[int, int]]) -> Tensor:
    """(B, cells) does the box share area with each cell (more than rounding)."""
    where = torch.tensor(cells, dtype=torch.float32).reshape(-1, 2) * 4
    return ((position[:, None] - where).abs() < 4 - 1e-4).all(-1)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.sampled_from(maps.names()), st.booleans(), st.integers(0, 1 << 30), st.floats(0.1, 3.0))
def test_continuous_never_enters_walls_nor_defies_doors(name: str, momentum: bool, seed: int, spread: float) -> None:
    w = make(name, 32, actions="continuous", momentum=momentum)
    w.reset(seed)
    rng = torch.Generator().manual_seed(seed)
    walls = [(x, y) for x in range(16) for y in range(16) if w.map[x, y] == "#"]
    doors = {way: w.map.cells(char) for char, way in {"^": (0, -1), "v": (0, 1), "<": (-1, 0), ">": (1, 0)}.items()}
    state = w.state()
    heading = torch.zeros(32, 2)
    for _ in range(25):
        heading = (0.7 * heading + spread * torch.randn(32, 2, generator=rng)).clamp(-1, 1)
        new = w.transition(state, heading)
        assert not overlaps(new.position, walls).any()
        assert ((new.position >= 0) & (new.position <= 60)).all()
        step = new.position - state.position
        piped = w.teleported(state, heading, new)
        assert (step.abs() <= 8 + 1e-4)[~piped].all()
        for (dx, dy), cells in doors.items():
            on_door = overlaps(state.position, cells).any(1) & overlaps(new.position, cells).any(1) & ~piped
            assert (step[on_door] * torch.tensor([dx, dy]).float() >= -1e-4).all()
            assert (step[on_door] * torch.tensor([abs(dy), abs(dx)]).float() == 0).all()
        state = new


def test_continuous_moves_slides_and_stops() -> None:
    w = make("two-rooms", actions="continuous")

    def go(x: float, y: float, dx: float, dy: float) -> list[float]:
        return (
            w.transition(w.at(torch.tensor([[x, y]])), torch.tensor([[dx, dy]], dtype=torch.float32))
            .position[0]
            .tolist()
        )

    assert go(8, 8, 0.5, -0.25) == [10, 7]
    assert go(22.5, 10, 1, 0.5) == [24, 12]  # stops at x = 24, slides down
    assert go(0, 0, -1, -1) == [0, 0]
    assert go(22, 28, 1, 0) == [26, 28]
    assert go(24, 26.5, 1, 0) == [26, 28]  # a corner less than half a box wide is rounded
    assert go(24, 29.5, 1, 0) == [26, 28]
    assert go(24, 24.5, 1, 0) == [24, 24.5]  # but not a whole wall
    assert go(24, 26.5, 1, -1) == [24, 22.5]  # nor against the will of the action


@pytest.mark.parametrize("drawing", ["slow", "open", "fast"])
def test_no_step_is_longer_than_its_pace_allows(drawing: str, tmp_path) -> None:
    """Also while the box slips round corners: a slip is part of the step."""
    char, most = {"slow": ("~", 2.0), "open": (".", 4.0), "fast": ("+", 8.0)}[drawing]
    rows = [list(char * 16) for _ in range(16)]
    for y in range(1, 16, 3):
        for x in range(y % 2, 16, 3):
            rows[y][x] = "#"
    w = drawn(tmp_path, "\n".join("".join(row) for row in rows), actions="continuous")
    rng = torch.Generator().manual_seed(0)
    places = 60 * torch.rand(200_000, 2, generator=rng)
    places = places[w.physics.free(places)]
    action = 2 * torch.rand(len(places), 2, generator=rng) - 1
    moved, _, piped = w.physics.glide(places, 4 * action)
    step = (moved - places).abs().amax(-1)
    assert not piped.any()
    assert float(step.max()) <= most + 1e-4
    assert float(step.max()) > 0.99 * most
    assert ((moved - places).abs() > 4 * action.abs() * most / 4 + 1e-3).any(), "some slip round a corner"


def test_continuous_pipes_and_zones() -> None:
    w = make("pipes", actions="continuous")
    state = w.at(torch.tensor([[5.0, 8.5]]))
    up = torch.tensor([[0.0, -1.0]])
    new = w.transition(state, up)
    assert new.position.tolist() == [[56, 56]]
    assert w.teleported(state, up, new)[0]
    still = torch.tensor([[0.1, 0.1]])
    stirred = w.transition(new, still)
    assert not w.teleported(new, still, stirred)[0]
    assert stirred.position[0, 0] == pytest.approx(56.4)
    z = make("zones", actions="continuous")
    right = torch.tensor([[1.0, 0.0]])
    assert z.transition(z.at(torch.tensor([[20.0, 12.0]])), right).position.tolist() == [[22, 12]]
    assert z.transition(z.at(torch.tensor([[20.0, 44.0]])), right).position.tolist() == [[28, 44]]


def test_continuous_momentum() -> None:
    w = make("empty", actions="continuous", momentum=True)
    state = w.transition(w.at(torch.tensor([[10.0, 10.0]])), torch.tensor([[0.5, 0.0]]))
    assert state.position.tolist() == [[12, 10]]
    assert state.velocity.tolist() == [[2, 0]]
    state = w.transition(state, torch.tensor([[1.0, 0.25]]))
    assert state.position.tolist() == [[16, 11]]
    assert state.velocity.tolist() == [[4, 1]]
    wall = w.transition(w.at(torch.tensor([[59.0, 10.0]])), torch.tensor([[1.0, 1.0]]))
    assert wall.position.tolist() == [[60, 14]]
    assert wall.velocity.tolist() == [[0, 4]]


def test_lattice_points_move_alike_in_both_action_spaces() -> None:
    """Full-speed axis moves from the grid are the discrete moves (maps without slow zones)."""
    for name in ("pipes", "one-way", "maze", "islands"):
        d, c = make(name), make(name, actions="continuous")
        state = d.places()
        for action, push in enumerate([(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]):
            a = d.transition(state, torch.eye(5)[action].expand(len(state.clock), -1))
            b = c.transition(state, torch.tensor([push], dtype=torch.float32).expand(len(state.clock), -1))
            assert torch.equal(a.position, b.position)
