"""Draws that last: every step keeps its distribution, only neighbours in time become alike."""

from __future__ import annotations

import pytest
import torch

from isochrone.planners.cem import Categorical, Gaussian, lasting


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("repeat", [1.0, 3.0, 10.0])
def test_a_lasting_choice_keeps_the_probability_of_every_step(repeat: float) -> None:
    probs = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]])  # (B, H, A)
    drawn = Categorical(probs).sample(40_000, rng(), repeat)
    torch.testing.assert_close(drawn.mean(1), probs, atol=0.01, rtol=0)


@pytest.mark.parametrize("repeat", [1.0, 4.0])
def test_lasting_noise_keeps_mean_and_spread_of_every_step(repeat: float) -> None:
    mean, std = torch.tensor([[[0.1], [-0.2], [0.0]]]), torch.tensor([[[0.05], [0.1], [0.2]]])
    drawn = Gaussian(mean, std).sample(40_000, rng(), repeat)
    torch.testing.assert_close(drawn.mean(1), mean, atol=0.005, rtol=0)
    torch.testing.assert_close(drawn.std(1), std, atol=0.005, rtol=0)


@pytest.mark.parametrize("repeat", [2.0, 5.0])
def test_a_stretch_lasts_as_long_as_asked(repeat: float) -> None:
    level = torch.rand(500, 200, 1, generator=rng())
    held = lasting(level, repeat, rng(1))
    turns = (held.diff(dim=1) != 0).float().mean()
    assert float(turns) == pytest.approx(1 / repeat, abs=0.01)
    assert bool((held[:, 0] == level[:, 0]).all())
    assert lasting(level, 1.0, rng(1)) is level


def test_draws_that_last_go_farther() -> None:
    even = Categorical(torch.full((1, 16, 4), 0.25))
    way = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    far = [float((even.sample(2000, rng(), r) @ way).sum(2).norm(dim=-1).mean()) for r in (1.0, 4.0)]
    assert far[1] > 1.8 * far[0]
