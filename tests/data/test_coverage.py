"""Coverage from frames alone: a dot on a fixed picture is counted where it was."""

import numpy as np
import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec
from isochrone.data.coverage import coverage, replay_coverage, visits
from isochrone.data.episode import Episode
from isochrone.data.replay import Replay


def dots(places, size=16):
    """One bright 2x2 dot per frame on a fixed textured ground; None draws no dot."""
    ground = np.random.default_rng(0).integers(0, 60, (3, size, size), dtype=np.uint8)
    frames = np.repeat(ground[None], len(places), 0)
    for frame, place in zip(frames, places, strict=True):
        if place is not None:
            frame[:, place[0] : place[0] + 2, place[1] : place[1] + 2] = 255
    return frames


def test_counts_cells_and_blank_frames():
    places = [(0, 0)] * 3 + [(4, 8)] * 2 + [(14, 14)] + [None] * 4
    found = coverage([dots(places)], cells=8)
    assert found.counts.tolist() == [4, 3, 2, 1] and found.frames == 10 and found.blank == 4
    want = np.zeros((8, 8), int)
    want[0, 0], want[2, 4], want[7, 7] = 3, 2, 1
    assert np.array_equal(found.cells, want)
    numbers = found.numbers()
    share = np.array([0.4, 0.3, 0.2, 0.1])
    assert numbers["coverage/distinct"] == 4 and numbers["coverage/once"] == 0.25
    assert np.isclose(numbers["coverage/effective"], np.exp(-(share * np.log(share)).sum()))
    assert numbers["coverage/cells"] == 3 / 64


def test_chunks_add_up_and_visits_count_equal_frames():
    places = [(y, x) for y in range(0, 14, 2) for x in range(0, 14, 2)] * 2
    frames = dots(places)
    whole, parts = coverage([frames]), coverage([frames[:60], frames[60:]])
    assert np.array_equal(whole.counts, parts.counts) and np.array_equal(whole.cells, parts.cells)
    assert set(visits(frames).values()) == {2}
    with pytest.raises(UserError, match="no frames yet"):
        coverage([])


def test_of_a_replay():
    spec = Spec({"image": (3, 16, 16)}, ActionSpec("discrete", 2))
    replay = Replay(spec, 2, 40)
    with pytest.raises(UserError, match="no frames yet"):
        replay_coverage(replay)
    frames = dots([(t % 14, t % 7) for t in range(40)])
    flags = np.arange(40) == 0, np.arange(40) == 39
    for lane in range(2):
        action, zero = np.eye(2, dtype=np.float32)[np.zeros(40, int)], np.zeros(40, np.float32)
        replay.extend(lane, Episode({"image": frames}, action, zero, *flags, np.zeros(40, bool)))
    every = replay_coverage(replay)
    assert every.frames == 80 and len(every.counts) == 14 and every.counts.sum() == 80
    assert 20 <= replay_coverage(replay, most=20).frames <= 27
    with pytest.raises(UserError, match="no 'image'"):
        replay_coverage(Replay(Spec({"state": (2,)}, ActionSpec("discrete", 2)), 1, 4))
    assert torch.is_tensor(replay.take([0], [0], 2).obs["image"])
