"""Pictures of other libraries: where their channels are, and how they are made smaller."""

import numpy as np
import pytest
import torch

from isochrone.core.images import channels_first, is_picture, shrink


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((20, 30), (1, 20, 30)),
        ((20, 30, 3), (3, 20, 30)),
        ((3, 20, 30), (3, 20, 30)),
        ((1, 20, 30), (1, 20, 30)),
        ((84, 84, 4), (4, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),
        ((4, 84, 84, 3), (12, 84, 84)),
        ((4, 84, 84, 1), (4, 84, 84)),
    ],
)
def test_channels_come_first(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert is_picture(shape)
    assert channels_first(np.zeros(shape, np.uint8)).shape == wanted


def test_a_stack_keeps_the_order_of_its_frames() -> None:
    stack = np.stack([np.full((20, 20, 3), level, np.uint8) for level in (1, 2)])
    assert channels_first(stack)[:, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("shape", [(), (5,), (20, 10, 10), (0, 5, 3), (5, 5, 5, 5, 5)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    assert not is_picture(shape)


def test_shrinking_averages_areas() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0, :2, :2] = torch.tensor([[100, 200], [0, 100]])
    assert shrink(image, 2)[:, 0, 0].tolist() == [100, 0, 0]
    assert torch.equal(shrink(torch.stack([image, image]), 2)[1], shrink(image, 2))
    assert shrink(torch.full((3, 50, 70), 9, dtype=torch.uint8), 8).unique().tolist() == [9]
