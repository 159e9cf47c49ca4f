"""Open-loop prediction in pixels, and the information in latents: known answers, and figures that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from perfect import compute
from replaywindows import windows_at
from tinymodel import counted, counter, generator, make_env, tiny, windows
from torch import Tensor, nn

from isochrone.core.types import Batch, Struct
from isochrone.evals import suite
from isochrone.evals.context import Context, EvalConfig
from isochrone.evals.ground_truth import random_actions, record
from isochrone.evals.metrics.openloop_pixels import BURN_IN


@dataclass(frozen=True)
class At(Struct):
    """Window and row."""

    window: Tensor
    row: Tensor

    @property
    def h(self) -> Tensor:
        """No memory."""
        return self.row[..., None][..., :0]

    def feat(self) -> Tensor:
        return torch.stack([self.window, self.row], -1)


class Seer(nn.Module):
    """Knows the whole recording; with `still` it believes that nothing changes."""

    def __init__(self, batch: Batch, still: bool = False) -> None:
        super().__init__()
        self.batch, self.still, self.action = batch, still, counter().spec.action

    def start(self, batch: int) -> At:
        return At(torch.arange(batch).float(), torch.full((batch,), -1.0))

    def update(self, state: At, action: Tensor, obs: Any) -> At:
        same = (self.batch.obs["image"] == obs["image"][:, None]).flatten(2).all(-1).float()
        later = torch.arange(same.shape[1]) > self.seen
        row = (same * later).argmax(1)
        self.seen = int(row.max())
        return At(state.window, row.float())

    seen = -1

    def imagine(self, state: At, actions: Tensor, rng: Any = None, shared_noise: bool = False) -> At:
        b, n, horizon, _ = actions.shape
        steps = torch.arange(1, horizon + 1) * (0 if self.still else 1)
        row = (state.row[:, None, None] + steps).expand(b, n, horizon)
        return At(state.window[:, None, None].expand(b, n, horizon), row)

    def decode(self, state: At) -> Tensor:
        window, row = state.window.long(), state.row.long()
        return self.batch.obs["image"][window, row].float() / 255

    def rewards(self, state: At) -> Tensor:
        return self.batch.reward[state.window.long(), state.row.long()]

    def observe(self) -> None: ...


def whole(size: int = 8) -> Batch:
    """Windows of one long counting episode each: every frame is another one."""
    from isochrone.data.collect import collect, random_policy
    from isochrone.data.replay import ReplayBuffer
    from isochrone.envs.counter import Counter, CounterConfig

    env = Counter(CounterConfig(length=30, actions=5, size=size), num_envs=6)
    replay = ReplayBuffer(env.spec, 6, 24)
    collect(env, random_policy(env.spec.action, generator()), replay, 6 * 24, generator(1))
    return windows_at(replay, list(range(6)), [0] * 6, 24)


def test_knowing_the_recording_predicts_frames_and_rewards() -> None:
    batch = whole()
    got = compute("openloop_pixels", Seer(batch), batch, horizon=6)
    assert got["error"].max() == pytest.approx(0, abs=1e-9)
    assert got["reward_r2"] == pytest.approx(1)
    assert (got["error_baseline"] > 0).all()
    assert got["error_end"].baseline > got["error_1"].baseline
    # it has no h
    assert got["reconstruction_error"] == pytest.approx(0, abs=1e-9)
    assert "sampling_share_end" not in got
    np.testing.assert_allclose(got["film_likely"], got["film_truth"])


def test_standing_still_scores_the_baseline() -> None:
    batch = whole()
    got = compute("openloop_pixels", Seer(batch, still=True), batch, horizon=6)
    np.testing.assert_allclose(got["error"], got["error_baseline"], rtol=1e-5)
    assert got["reward_r2"] < 1
    assert len(got["horizon"]) == 6
    assert got["error_5"] == got["error"][4]
    assert "error_5" not in compute("openloop_pixels", Seer(batch), batch, horizon=4)


@dataclass(frozen=True)
class Placed(At):
    """With a memory of one number."""

    memory: Tensor

    @property
    def h(self) -> Tensor:
        return self.memory


class Spread(Seer):
    """Remembers the row; the n-th future drawn is off by n at every step more."""

    def update(self, state: At, action: Tensor, obs: Any) -> Placed:
        at = super().update(state, action, obs)
        return Placed(at.window, at.row, at.row[:, None])

    def start(self, batch: int) -> Placed:
        at = super().start(batch)
        return Placed(at.window, at.row, torch.zeros(batch, 1))

    def imagine(self, state: At, actions: Tensor, rng: Any = None, shared_noise: bool = False) -> Placed:
        b, n, horizon, _ = actions.shape
        off = torch.arange(n)[:, None] * torch.arange(1.0, horizon + 1)
        return Placed(
            *super().imagine(state, actions).map(lambda x: x).__dict__.values(), off.expand(b, n, -1)[..., None]
        )


def test_the_sampling_share_is_the_variance_over_futures() -> None:
    """0..7 has variance 6; all rows that are remembered, 0..23 in each of 6 windows, have that of the whole."""
    batch = whole()
    whole_variance = float(torch.arange(24.0).repeat(6).var())
    got = compute("openloop_pixels", Spread(batch), batch, horizon=6)
    assert got["sampling_share_2"] == pytest.approx(6 * 2**2 / whole_variance, rel=1e-5)
    assert got["sampling_share_end"] == pytest.approx(6 * 6**2 / whole_variance, rel=1e-5)
    ends = batch.replace(last=torch.zeros_like(batch.last).index_fill(1, torch.arange(BURN_IN + 2, 24, 3), True))
    cut = compute("openloop_pixels", Spread(batch), ends, horizon=6)
    # no future of six steps lies in one episode
    assert "sampling_share_2" in cut
    assert "sampling_share_end" not in cut


def test_only_models_with_memory_and_sampling_have_a_sampling_share() -> None:
    batch = windows(1)[0]
    assert compute("openloop_pixels", tiny("rssm"), batch, horizon=4)["sampling_share_2"] > 0
    assert compute("openloop_pixels", tiny("rnn"), batch, horizon=4)["sampling_share_2"] == 0
    assert "sampling_share_2" not in compute("openloop_pixels", tiny("ssm"), batch, horizon=4)


def test_the_reconstruction_error_is_the_posteriors() -> None:
    batch = whole(16)
    model = tiny("rssm", counter().spec)
    shown = torch.stack([model.decode(x).clamp(0, 1) for x in rows_of(model, batch)], 1)
    frames = batch.obs["image"].float() / 255
    scale = (frames - frames.mean((0, 1))).square().flatten(2).sum(-1).mean()
    error = (shown.detach() - frames)[:, BURN_IN:].square().flatten(2).sum(-1).mean()
    got = compute("openloop_pixels", model, batch, horizon=4)["reconstruction_error"]
    assert got == pytest.approx(float(error / scale), rel=1e-4)


def rows_of(model: Any, batch: Batch) -> list[Any]:
    """The belief after every row of windows that are one episode each."""
    state, action, out = model.start(len(batch.reward)), model.action.idle((len(batch.reward),)), []
    for t in range(batch.shape[1]):
        state = model.update(state, action, {k: v[:, t] for k, v in batch.obs.items()})
        action = batch.action[:, t]
        out.append(state)
    return out


def test_windows_that_are_too_short_are_refused() -> None:
    batch = whole()[:, : BURN_IN + 1]
    with pytest.raises(Exception, match="openloop_pixels needs recordings of 7 rows; this one has 6"):
        compute("openloop_pixels", Seer(batch), batch)


def test_the_kl_per_frame_leaves_first_rows_out() -> None:
    model, batch = tiny("rssm"), windows(1)[0]
    got = compute("latent_information", model, batch, seed=3)
    roll = model.observe(batch, {"posterior", "prior"}, generator(3))
    kl = roll.posterior.kl(roll.prior)
    later = ~batch.first.clone()
    later[:, 0] = False
    assert got["kl_per_frame"] == pytest.approx(kl.sum(-1)[later].mean().item(), rel=1e-4)
    assert got["kl_first_frame"] == pytest.approx(kl.sum(-1)[~later].mean().item(), rel=1e-4)
    assert got["per_dimension"].sum() == pytest.approx(got["kl_per_frame"], rel=1e-6)
    assert (np.diff(got["per_dimension"]) <= 0).all()
    assert len(got["by_row"]) == 11
    said, chance = roll.posterior.mean[later].detach(), roll.posterior.std[later].detach().square().mean()
    assert got["noise_share"] == pytest.approx(float(chance / (chance + said.var(0, correction=0).mean())), rel=1e-4)


def test_belief_probes_report_or_refuse_the_position() -> None:
    env = make_env()
    batch, truth = record(env, random_actions(env.spec), 12, generator())
    model = tiny("rssm")
    assert "position_error" in compute("belief_probes", model, batch, truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn", "ssm", "rssm"])
def test_every_state_space_model_is_evaluated_and_drawn(name: str) -> None:
    model, batch = tiny(name, counter().spec), counted(1, 12, 24)[0]
    results, arrays = suite.evaluate(Context(model, EvalConfig(horizon=4), generator(), batch))
    assert {"openloop_pixels.error_1", "latent_information.kl_per_frame"} <= set(results)
    others = ("openloop_latent.", "reach.", "perception.", "belief.", "return.", "planning.", "holdout.")
    assert not any(key.startswith(others) for key in results)
    assert {"futures", "openloop_pixels", "latent_information"} <= set(suite.draw_all(arrays))
