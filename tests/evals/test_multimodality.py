"""Two futures: a seer, a blur, a coin and one who remembers, told apart by the measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isochrone.core.protocols import TwoFutures
from isochrone.core.types import Struct
from isochrone.envs.bouncer import Bouncer, BouncerConfig
from isochrone.evals import suite
from isochrone.evals.context import Context, EvalConfig
from isochrone.evals.metrics.multimodality import multimodality


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Clock(Struct):
    """Weight of the right side in the mixture that is shown, and the row."""

    right: Tensor
    row: Tensor

    def feat(self) -> Tensor:
        return torch.stack([self.right, self.row], -1)


class Dreamer(nn.Module):
    """Imagines exact frames; `mix` says which: 'coin', 'blur', 'left' or 'due' (it cheats and looks at the env)."""

    is_stochastic = False

    def __init__(self, env: Bouncer, mix: str) -> None:
        super().__init__()
        self.env, self.mix, self.action = env, mix, env.spec.action
        sides = torch.tensor([-1, 1])
        self.frames = env.frames(sides).float() / 255  # (2, T, C, Y, X)

    def start(self, batch: int) -> Clock:
        return Clock(torch.zeros(batch), torch.full((batch,), -1.0))

    def update(self, state: Clock, action: Tensor, obs: Any) -> Clock:
        return state.replace(right=(self.env.state().side > 0).float(), row=state.row + 1)

    def imagine(self, state: Clock, actions: Tensor, rng: torch.Generator | None = None) -> Clock:
        b, n, horizon, _ = actions.shape
        rows = state.row[:, None, None] + torch.arange(1, horizon + 1)
        right = {
            "coin": torch.zeros(b, n) if rng is None else (torch.rand(b, n, generator=rng) < 0.5).float(),
            "blur": torch.full((b, n), 0.5),
            "left": torch.zeros(b, n),
            "due": state.right[:, None].expand(b, n),
        }[self.mix]
        return Clock(right[..., None].expand(b, n, horizon), rows.expand(b, n, horizon))

    def decode(self, state: Clock) -> Tensor:
        right, row = state.right, state.row
        wide = right[..., None, None, None]
        return (1 - wide) * self.frames[0][row.long()] + wide * self.frames[1][row.long()]


def context(mix: str, env: Bouncer) -> Context:
    return Context(Dreamer(env, mix), EvalConfig(horizon=10), rng(2), env=env)


def found(mix: str, variant: str = "split") -> dict[str, Any]:
    options: Any = {"variant": variant}
    env = Bouncer(BouncerConfig(**options), num_envs=16)
    return dict(multimodality(context(mix, env)))


def test_a_coin_covers_both_sides() -> None:
    got = found("coin")
    assert got["left"] == pytest.approx(0.5, abs=0.06)
    assert got["right"] == pytest.approx(0.5, abs=0.06)
    assert got["no_mode"] == pytest.approx(0, abs=1e-9)
    assert got["rarer_mode"] > 0.44
    assert got["correct_mode"] == pytest.approx(0.5, abs=0.06)
    assert got["error_end"] == pytest.approx(1.0, abs=0.15), "half of the futures pay twice as much as a blur"


def test_a_blur_shows_no_side_and_pays_one_half() -> None:
    got = found("blur")
    assert got["left"] == got["right"] == got["rarer_mode"] == 0
    assert got["no_mode"] == 1
    assert got["error_end"] == pytest.approx(0.5, abs=0.01), "|mean - side|^2 is a quarter of the distance between both"
    assert got["most_likely_error_end"] == pytest.approx(got["error_end"]), "it draws nothing at all"


def test_one_side_only_is_seen_as_such() -> None:
    got = found("left")
    assert got["left"] == 1
    assert got["rarer_mode"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["split", "memory"])
def test_one_who_knows_is_always_right_and_pays_nothing(variant: str) -> None:
    got = found("due", variant)
    assert got["correct_mode"] == 1
    assert got["error_end"] == got["most_likely_error_end"] == pytest.approx(0, abs=1e-9)
    assert got["energy_score"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_the_energy_score_prefers_two_sharp_futures_to_one_blur() -> None:
    """By hand, in units of the distance g between both: a coin scores 1/2 - 1/4, a blur 1/2."""
    assert found("blur")["energy_score"] == pytest.approx(0.5, abs=0.01)
    assert found("coin")["energy_score"] == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_sides_are_drawn_beside_what_is_imagined(theme: str) -> None:
    env = Bouncer(BouncerConfig(), num_envs=4)
    results, arrays = suite.compute(multimodality, context("coin", env))
    assert set(suite.draw_all(arrays, theme)) == {"multimodality"}
    assert {"multimodality.rarer_mode", "multimodality.correct_mode"} <= set(results)
    assert results["multimodality.correct_mode"]["baseline"] == 0.5


def test_only_worlds_of_two_futures_are_forked() -> None:
    from isochrone.envs.counter import Counter

    assert isinstance(Bouncer(BouncerConfig(), num_envs=2), TwoFutures)
    assert not isinstance(Counter(num_envs=2), TwoFutures)
