"""Distances against Dijkstra on the slow description, and their properties."""

import pytest
import torch
from slowbox import SlowBox

from isochrone.core.protocols import GroundTruth
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig, maps


def make(name: str = "empty", count: int = 1, **options: object) -> WhiteBox:
    return WhiteBox(WhiteBoxConfig(map=name, **options), count)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", maps.names())
def test_distances_equal_dijkstra(name: str) -> None:
    w = make(name)
    assert isinstance(w, GroundTruth)
    slow, places = SlowBox(w.map.rows), w.places()
    table = w.table()
    corners = [tuple(int(v) for v in p) for p in (places.position / 2).tolist()]
    for i in range(0, len(corners), max(1, len(corners) // 12)):
        expected = slow.dijkstra((*corners[i], 0, 0))
        assert table[i].tolist() == [expected[c] for c in corners]


def test_momentum_distances_equal_dijkstra() -> None:
    w = make("pipes", momentum=True)
    slow, places = SlowBox(w.map.rows, momentum=True), w.places()
    corners = [tuple(int(v) for v in p) for p in (places.position / 2).tolist()]
    start, speed = (4, 20), (1, -1)
    expected = slow.dijkstra((*start, *speed))
    box = w.at(torch.tensor([start]) * 2.0).replace(velocity=torch.tensor([speed]) * 4.0)
    many = box[torch.zeros(len(corners), dtype=torch.long)]
    assert w.distance(many, places).tolist() == [expected[c] for c in corners]
    rest = slow.dijkstra((*corners[3], 0, 0))
    assert w.table()[3].tolist() == [rest[c] for c in corners]


@pytest.mark.parametrize("name", maps.names())
@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_named_maps_are_connected(name: str, actions: str) -> None:
    # momentum on one of the two, so that the largest search (half cells x velocities) is left out
    table = make(name, actions=actions, momentum=actions == "discrete").table()
    assert actions == "continuous" or torch.isfinite(make(name).table()).all()
    assert torch.isfinite(table).all()
    assert (table.diagonal() == 0).all()
    assert (table + torch.eye(len(table)) > 0).all()


@pytest.mark.parametrize("name", ["pipes", "one-way", "medley"])
def test_triangle_inequality_and_unit_steps(name: str) -> None:
    w = make(name)
    table, places = w.table(), w.places()
    for middle in range(0, len(table), 7):
        assert (table <= table[:, middle, None] + table[None, middle]).all()
    for action in torch.eye(5):
        new = w.transition(places, action.expand(len(table), -1))
        assert (w.distance(places, new) <= 1).all()


def test_places_are_each_once_and_know_their_index() -> None:
    for name in maps.names():
        w = make(name)
        places = w.places()
        assert len({tuple(p) for p in places.position.tolist()}) == len(places.clock)
        assert w.index(places).tolist() == list(range(len(places.clock)))
        assert (places.velocity == 0).all()
        same = w.distance(places[:-1], places[1:])
        assert torch.equal(same, w.table().diagonal(1))


def test_one_way_maps_are_lopsided_and_pipes_shorten() -> None:
    table = make("one-way").table()
    assert ((table - table.T).abs() >= 4).float().mean() > 0.3
    w = make("pipes")
    a, b = w.cell(1, 2), w.cell(14, 13)
    assert w.distance(a, b).tolist() == [2]
    assert w.distance(b, a).tolist() == [2]
    up, down = w.cell(14, 2), w.cell(1, 13)
    assert w.distance(up, down).tolist() == [2]
    assert w.distance(down, up).item() > 10


def test_mouth_of_a_one_way_pipe_is_no_place() -> None:
    w = make("pipes")
    mouth = w.at(torch.tensor([[14.0, 1.0]]) * 4)
    assert w.index(mouth).tolist() == [-1]
    assert torch.isinf(w.distance(w.cell(0, 0), mouth)).all()  # nobody ever rests there


def test_no_way_is_inf(tmp_path) -> None:
    file = tmp_path / "split.txt"
    file.write_text("..#..\n")
    w = WhiteBox(WhiteBoxConfig(map_file=str(file)), 1)
    left, right = w.cell(5, 7), w.cell(9, 7)
    assert torch.isinf(w.distance(left, right)).all()
    assert w.table().isinf().sum() == 8


def test_continuous_distance_is_chebyshev_in_the_open() -> None:
    w = make("empty", actions="continuous")
    places = w.places()
    apart = (places.position[:, None] - places.position[None]).abs().amax(-1) / 4
    assert torch.equal(w.table(), apart)
    near = w.at(torch.tensor([[9.0, 7.4]]))
    assert w.index(near).tolist() == w.index(w.cell(2, 2)).tolist()
    assert w.distance(near, w.cell(5, 2)).tolist() == [3]


def test_continuous_distance_from_beside_a_wall() -> None:
    w = make("maze", actions="continuous")
    assert torch.isfinite(w.distance(w.at(torch.tensor([[33.9, 0.0], [2.0, 0.0]])), w.cell(0, 0))).all()
