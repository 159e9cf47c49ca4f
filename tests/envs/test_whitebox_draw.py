"""Pixels: where the box is, what hides it, and what moves behind it."""

import pytest
import torch

from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig, maps
from isochrone.envs.whitebox.draw import texture


def make(name: str = "empty", **options: object) -> WhiteBox:
    return WhiteBox(WhiteBoxConfig(map=name, **options), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", maps.names())
def test_the_box_is_the_only_bright_thing(name: str) -> None:
    w = make(name)
    places = w.places()
    frames = w.draw(places)
    assert frames.shape == (len(places.clock), 3, 64, 64)
    background = w.canvas.background
    assert background.max() <= 80
    white = (frames == 255).all(1)  # (C, Y, X)
    assert torch.equal(torch.where(white[:, None], background, frames), background.expand_as(frames))
    for i in range(0, len(white), 17):
        x, y = (int(v) for v in places.position[i].tolist())
        hidden = w.canvas.hidden.view(64, 64)[y : y + 4, x : x + 4]
        assert white[i].sum() == 16 - hidden.sum()
        assert white[i, y : y + 4, x : x + 4].sum() == 16 - hidden.sum()


def test_table_and_painting_agree() -> None:
    w = make("medley")
    places = w.places()
    assert torch.equal(w.draw(places), w.canvas.paint(places.position))


def test_occluder_hides_pixel_by_pixel() -> None:
    w = make("occluder", actions="continuous")
    assert (w.draw(w.cell(7, 5)) == 255).sum() == 0
    assert (w.draw(w.at(torch.tensor([[22.0, 20.0]]))) == 255).sum() == 3 * 4 * 2
    assert (w.draw(w.cell(5, 5)) == 255).sum() == 48


def test_continuous_boxes_are_drawn_to_the_nearest_pixel() -> None:
    w = make("empty", actions="continuous")
    frame = w.draw(w.at(torch.tensor([[10.4, 20.6], [60.0, 60.0]])))
    assert (frame[0, :, 21:25, 10:14] == 255).all()
    assert (frame[0] == 255).sum() == 48
    assert (frame[1, :, 60:, 60:] == 255).all()


@pytest.mark.parametrize("options", [{}, {"actions": "continuous"}, {"noise": 0.5}])
def test_drawing_into_a_buffer(options: dict) -> None:
    w = make("pipes", **options)
    places = w.places()
    out = torch.empty(len(places.clock), 3, 64, 64, dtype=torch.uint8)
    frames = w.draw(places, out)
    assert frames.data_ptr() == out.data_ptr()
    assert torch.equal(frames, w.draw(places))


def test_noise_moves_is_bounded_and_repeats_with_the_seed() -> None:
    w = WhiteBox(WhiteBoxConfig(map="two-rooms", noise=1.0), 8)
    first = w.reset(0).obs["image"]
    stay = w.spec.action.idle((8,))
    rows = [first] + [w.step(stay).obs["image"] for _ in range(6)]
    assert all(not torch.equal(a, b) for a, b in zip(rows, rows[1:], strict=False))
    box = (first == 255).all(1)
    assert (box.sum((1, 2)) == 16).all()
    assert first[~box[:, None].expand_as(first)].max() <= 160
    assert first.float().std() > 20
    again = WhiteBox(WhiteBoxConfig(map="two-rooms", noise=1.0), 8)
    assert torch.equal(again.reset(0).obs["image"], first)
    weak = WhiteBox(WhiteBoxConfig(map="empty", noise=0.25), 8).reset(0).obs["image"]
    assert weak[weak < 255].max() <= 40


def test_noise_keeps_the_occluder_opaque() -> None:
    w = WhiteBox(WhiteBoxConfig(map="occluder", noise=1.0), 2)
    image = w.reset(0).obs["image"]
    hidden = w.canvas.hidden.view(64, 64)
    assert (image[:, :, hidden] == 26).all()


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    w = WhiteBox(WhiteBoxConfig(map="empty"), 128)  # large enough for the pool
    w.reset(0)
    state = w.state()
    first = w.draw(state)
    where, copy = first.data_ptr(), first.clone()
    view = first[5]
    del first
    others = [w.draw(w.at(torch.zeros(128, 2))) for _ in range(4)]
    assert torch.equal(view, copy[5])
    assert where not in [x.data_ptr() for x in others]
    del view
    assert w.draw(state).data_ptr() == where
    array = w.draw(state).numpy()  # numpy holds it too
    assert all(w.draw(w.at(torch.zeros(128, 2))).data_ptr() != array.ctypes.data for _ in range(3))
    assert (array == copy.numpy()).all()


def test_the_noise_is_the_window_of_the_pattern() -> None:
    w = make("empty", noise=1.0)
    pattern = texture(torch.Generator().manual_seed(0))
    assert torch.equal(pattern[:, :63], pattern[:, 128:])
    assert torch.equal(pattern[:, :, :63], pattern[:, :, 128:])
    state = w.cell(0, 0).replace(noise=torch.tensor([[127, 5, 0]]))
    frame = w.draw(state)[0]
    frame[:, :4, :4] = pattern[:, 127:131, 5:9]
    assert torch.equal(frame, pattern[:, 127:191, 5:69])
