"""How frames of any number of channels are shown."""

import numpy as np
import pytest

from isochrone.evals.figure import displayed, film_strip


@pytest.mark.parametrize(("channels", "shown"), [(1, [0]), (3, [0, 1, 2]), (4, [3]), (12, [9, 10, 11])])
def test_of_a_stack_of_frames_the_newest_is_shown(channels: int, shown: list[int]) -> None:
    frame = np.arange(channels, dtype=np.float32)[:, None, None].repeat(2, 1).repeat(2, 2) / 12
    image = displayed(frame)
    assert np.allclose(np.atleast_1d(image[0, 0]) * 12, shown)
    film_strip({"true": frame[None]}, [0], "light")
