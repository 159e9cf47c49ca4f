"""Samples that are repeated over time: every step keeps its distribution, and neighbouring steps become alike."""

from __future__ import annotations

import pytest
import torch

from isochrone.planners.cem import CategoricalProposal, GaussianProposal, repeat_actions


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("hold_steps", [1.0, 3.0, 10.0])
def test_repeated_choices_keep_the_probabilities_of_every_step(hold_steps: float) -> None:
    probs = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]])  # (B, H, A)
    samples = CategoricalProposal(probs).sample(40_000, rng(), hold_steps)
    torch.testing.assert_close(samples.mean(1), probs, atol=0.01, rtol=0)


@pytest.mark.parametrize("hold_steps", [1.0, 4.0])
def test_repeated_noise_keeps_mean_and_spread_of_every_step(hold_steps: float) -> None:
    mean, std = torch.tensor([[[0.1], [-0.2], [0.0]]]), torch.tensor([[[0.05], [0.1], [0.2]]])
    samples = GaussianProposal(mean, std).sample(40_000, rng(), hold_steps)
    torch.testing.assert_close(samples.mean(1), mean, atol=0.005, rtol=0)
    torch.testing.assert_close(samples.std(1), std, atol=0.005, rtol=0)


@pytest.mark.parametrize("hold_steps", [2.0, 5.0])
def test_samples_last_hold_steps_on_average(hold_steps: float) -> None:
    level = torch.rand(500, 200, 1, generator=rng())
    repeated = repeat_actions(level, hold_steps, rng(1))
    turns = (repeated.diff(dim=1) != 0).float().mean()
    assert float(turns) == pytest.approx(1 / hold_steps, abs=0.01)
    assert torch.equal(repeated[:, 0], level[:, 0])
    assert repeat_actions(level, 1.0, rng(1)) is level


def test_repeated_actions_go_farther() -> None:
    uniform = CategoricalProposal(torch.full((1, 16, 4), 0.25))
    moves = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    once, repeated = (float((uniform.sample(2000, rng(), h) @ moves).sum(2).norm(dim=-1).mean()) for h in (1.0, 4.0))
    assert repeated > 1.8 * once
