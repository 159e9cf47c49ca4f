"""Every metric on a model that is exactly right, and on models that are wrong in a known way."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import dishonest
import numpy as np
import pytest
import torch
from perfect import Perfect, compute, make_env

from isochrone.core.errors import UserError
from isochrone.core.types import Batch
from isochrone.envs.whitebox import WhiteBox
from isochrone.evals.ground_truth import RecordedTruth, random_actions, record, true_step
from isochrone.evals.metric import Refused
from isochrone.evals.metrics.action_consistency import free_walks
from isochrone.evals.metrics.disagreement import matched_pairs


@lru_cache
def recorded(momentum: bool = False) -> tuple[WhiteBox, Batch, RecordedTruth]:
    env = make_env(momentum=momentum, envs=24)
    return env, *record(env, random_actions(env.spec), 24, torch.Generator().manual_seed(1))


def measured(name: str, momentum: bool = False, **broken: float) -> dict[str, Any]:
    env, batch, truth = recorded(momentum)
    return dict(compute(name, Perfect(env, **broken), batch, truth, seed=2))


def test_the_recording_is_what_was_played() -> None:
    env, batch, truth = recorded()
    assert batch.shape == (24, 24)
    assert truth.position.shape == (24, 24, 2)
    flat = truth.state.map(lambda x: x.flatten(0, 1))
    assert torch.equal(env.draw(flat), batch.obs["image"].flatten(0, 1))
    after, jumped, moved = true_step(env, truth.state[:, 3], batch.action[:, 3])
    assert torch.equal(after.position, truth.position[:, 4])
    assert torch.equal(jumped, truth.teleported[:, 3])
    assert torch.equal(moved, truth.moved[:, 3])


def test_the_table_is_the_distance_between_the_places() -> None:
    env, _, truth = recorded()
    count = len(truth.table)
    i, j = torch.arange(count).repeat_interleave(count), torch.arange(count).repeat(count)
    assert np.array_equal(env.distance(truth.places[i], truth.places[j]).reshape(count, count).numpy(), truth.table)


def test_reach_of_a_perfect_model() -> None:
    out = measured("reach")
    assert out["spearman"] == pytest.approx(1)
    assert out["mae"] == 0
    assert out["bias"] == 0
    assert out["asymmetry"] == 1
    assert out["asymmetry_pairs"] > 100
    assert out["spearman"].baseline < 0.9
    assert out["mae"].baseline > 2
    assert np.allclose(out["calibration_p"], out["calibration_true"][:, None])
    assert len(out["map_one_way"]) == 2
    assert len(out["map_pipe_from"]) == len(out["map_pipe_mouth"]) > 0


def test_reach_of_broken_models() -> None:
    assert measured("reach", wrong=1.5)["mae"] == pytest.approx(1.5)
    assert measured("reach", wrong=1.5)["mae"].interval == pytest.approx((1.5, 1.5))
    blind = measured("reach", blind=1)
    assert blind["asymmetry"] == 0
    assert blind["mae"] > 0.5


def test_action_consistency_of_a_perfect_and_a_stuck_model() -> None:
    out = measured("action_consistency")
    for name in ("noop_ratio", "inverse_residual", "path_dependence", "drift"):
        assert out[name] == 0, name
    assert out["step_length"] >= 1
    stuck = measured("action_consistency", stuck=1)
    assert np.allclose(stuck["drift_mean"], stuck["drift_baseline"])
    assert stuck["drift_mean"][-1] > 0.1 * 16
    assert isinstance(stuck["drift"], Refused)  # its steps have no length


def test_free_walks_are_free() -> None:
    env, _, truth = recorded()
    walks = free_walks(truth, 6, 50, torch.Generator().manual_seed(0))
    assert walks is not None
    now = walks.start
    for k in range(6):
        after, jumped, moved = true_step(env, now, walks.actions[:, k])
        idle = walks.actions[:, k].argmax(-1) == 0
        assert bool((moved | idle).all())
        assert not bool(jumped.any())
        now = after
    assert torch.equal(now.position, walks.after[:, -1].position)


def test_perception_of_a_perfect_and_a_lost_encoder() -> None:
    out = measured("perception")
    assert out["spearman"] == pytest.approx(1)
    assert out["spearman_frames"] == pytest.approx(1)
    assert out["position_error"] < 1e-3 < 5 < out["position_error"].baseline
    assert out["pipe_ends_gap"] == pytest.approx(0, abs=1e-9)
    assert out["effective_rank"] == pytest.approx(2, abs=0.1)
    assert out["spectrum"].sum() == pytest.approx(1)
    lost = measured("perception", lost=1)
    assert abs(lost["spearman"]) < 0.2
    assert lost["position_error"] > 5


def test_the_position_probe_refuses_more_features_than_places() -> None:
    class Wide(Perfect):
        def encode_image(self, image: torch.Tensor) -> torch.Tensor:
            return super().encode_image(image).repeat_interleave(200, -1)

    env, batch, truth = recorded()
    out = compute("perception", Wide(env), batch, truth)
    assert isinstance(out["position_error"], Refused)
    assert "features" in out["position_error"]


def test_openloop_latent_of_a_perfect_and_a_stuck_model() -> None:
    out = measured("openloop_latent")
    assert out["error_end"] == 0
    assert out["top1_hit_1"] == 1
    assert out["top1_hit_end"] == 1
    assert out["position_error_end"] == 0
    assert out["error_end"].baseline > 0.2
    assert out["top1_hit_end"].baseline < 0.5
    assert np.array_equal(out["film_truth"], out["film_prediction"])
    stuck = measured("openloop_latent", stuck=1)
    assert stuck["error_end"] == pytest.approx(stuck["error_end"].baseline)
    assert np.allclose(stuck["error"], stuck["error_baseline"])


def test_belief_knows_velocity_and_no_clock() -> None:
    out = measured("belief", momentum=True)
    assert out["velocity_r2"] > 0.999
    assert out["velocity_r2_z"] < 0.3
    assert abs(out["clock_r2"]) < 0.1
    # forgetting loses the velocity
    assert out["step_error"] == 0
    assert out["step_error_reset"] > 0.3
    assert "velocity_r2" not in measured("belief")
    assert measured("belief")["step_error_reset"] == 0  # nothing hidden, nothing lost
    assert measured("belief", clock=1)["clock_r2"] > 0.99


class Flat(Perfect):
    """d_p is one action everywhere."""

    def metric(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.ones(torch.broadcast_shapes(a.shape, b.shape)[:-1])


class Straight(Perfect):
    """d_p is the visible distance in cells."""

    def distance(self, a: Any, b: Any, space: str = "p") -> torch.Tensor:
        return super().distance(a, b, "z")


def test_disagreement_finds_the_pipes() -> None:
    out = measured("disagreement")
    assert out["auroc"] == 1
    assert out["auroc"].interval[0] < 0.95  # twelve steps through pipes are few
    assert out["pipe_moves"] == 12


@pytest.mark.parametrize("blind", [Flat, Straight])
def test_disagreement_that_does_not_depend_on_reachability_is_a_coin(blind: type[Perfect]) -> None:
    env, batch, truth = recorded()
    out = compute("disagreement", blind(env), batch, truth, seed=2)
    assert out["auroc"] == pytest.approx(0.5, abs=0.1)
    low, high = out["auroc"].interval
    assert low < 0.5 < high


def test_pipes_are_compared_with_pairs_that_look_alike_and_are_no_step_apart() -> None:
    _, _, truth = recorded()
    pipes = truth.pipes
    visible = truth.env.displacement(pipes.start, pipes.next).numpy()
    for v, pairs in zip(visible, matched_pairs(truth, np.random.default_rng(0)), strict=True):
        i, j = pairs.numpy().T
        assert (truth.table[i, j] > 1).all()
        assert np.isfinite(truth.table[i, j]).all()
        off = truth.displacement[i, j] - v
        assert (np.abs(off) <= 0.1 * v + 1e-6).all()
        assert (off < -1e-6).sum() == (off > 1e-6).sum()


def test_unreachable_pairs_are_known_to_be_far() -> None:
    env = make_env("...#...\n...#...\n...>...\n...#...", 4)
    batch, truth = record(env, random_actions(env.spec), 6, torch.Generator().manual_seed(0))
    out = compute("reach", Perfect(env), batch, truth)
    assert out["unreachable"] == 1
    assert out["unreachable"].interval[0] < 1
    assert out["unreachable"].baseline < 0.9
    assert out["unreachable_pairs"] == np.isinf(truth.table).sum()
    assert compute("reach", Flat(env), batch, truth)["unreachable"] == 0.5
    assert compute("reach", Straight(env), batch, truth)["unreachable"] == pytest.approx(out["unreachable"].baseline)


def test_numbers_of_a_collapsed_model_are_refused() -> None:
    """Each would be perfect, or 0 / 0: there is nothing to divide by."""
    env, batch, truth = recorded()
    constant = dishonest.Constant(env)
    names = {
        "action_consistency": ("noop_ratio", "inverse_residual", "path_dependence", "drift"),
        "openloop_latent": ("error_1", "error_end", "top1_hit_1", "position_error_end"),
        "perception": ("spearman", "pipe_ends_gap", "position_error", "effective_rank", "shift_noise"),
        "belief": ("step_error", "clock_r2"),
        "reach": ("spearman",),
    }
    for family, keys in names.items():
        out = compute(family, constant, batch, truth)
        assert {k for k in keys if not isinstance(out[k], Refused)} == set(), family


def test_disagreement_is_silent_without_pipes() -> None:
    env = make_env("....\n.##.\n....", 3)
    batch, truth = record(env, random_actions(env.spec), 6, torch.Generator().manual_seed(0))
    assert compute("disagreement", Perfect(env), batch, truth) == {}
    assert "pipe_ends_gap" not in compute("perception", Perfect(env), batch, truth)


def test_actions_point_where_they_lead() -> None:
    out = measured("action_effects")
    assert out["label"].tolist() == ["up", "down", "left", "right"]
    assert out["z_consistency"] == pytest.approx(1)
    assert out["z_length_spread"] == pytest.approx(0, abs=1e-6)
    assert np.allclose(out["z_cosine"][0], [1, -1, 0, 0], atol=1e-6)
    assert out["p_consistency"] < 0.9  # no one vector per action fits a world with walls


def test_bad_recordings_are_refused() -> None:
    env = make_env("...", 2)
    with pytest.raises(UserError, match="length 1"):
        record(env, random_actions(env.spec), 1, torch.Generator())
    with pytest.raises(UserError, match="ground truth"):
        record(object(), random_actions(env.spec), 8, torch.Generator())
    batch, truth = record(env, random_actions(env.spec), 3, torch.Generator())
    with pytest.raises(UserError, match="raise eval.length"):
        compute("openloop_latent", Perfect(env), batch, truth)
    tiny = make_env("..", 2)
    with pytest.raises(UserError, match="2 free places"):
        _ = record(tiny, random_actions(tiny.spec), 4, torch.Generator())[1].places
