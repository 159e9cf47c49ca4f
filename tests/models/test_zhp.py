"""What is the z/h/p model's own."""

from __future__ import annotations

import pytest
import torch
from tinymodel import filtered, generator, made, make_env, tiny, windows

from isochrone.core import registry
from isochrone.core.config import validate
from isochrone.core.errors import UserError
from isochrone.core.tensors import gather_rows
from isochrone.models.openloop import OpenLoop


def test_the_open_loop_equals_a_python_loop() -> None:
    model, batch = made("zhp"), windows(1)[0]
    loop = model.observe(batch, {"open_loop"}, generator()).open_loop
    assert loop.start.shape == (6, 3)
    assert loop.valid.shape == (6, 3, 4)
    assert loop.z.shape == (6, 3, 4, 8)
    assert bool(loop.valid.any())
    assert not bool(loop.valid.all())
    index = torch.arange(6 * 12.0).reshape(6, 12, 1)  # every row its own number
    for b in range(6):
        for s in range(3):
            t = int(loop.start[b, s])
            assert 0 <= t < 12 - 4
            assert loop.origin(index)[b, s, 0] == 12 * b + t
            for k in range(1, 5):
                assert loop.target(index)[b, s, k - 1, 0] == 12 * b + t + k
                crossed = any(batch.last[b, i] or batch.first[b, i + 1] for i in range(t, t + k))
                assert bool(loop.valid[b, s, k - 1]) is not crossed
    assert isinstance(loop[0], OpenLoop)
    assert loop[0].z.shape == (3, 4, 8)


def test_open_loop_starts_cover_every_row_that_has_room() -> None:
    model, batch = tiny(rollout_starts=50), windows(1)[0]
    starts = model.observe(batch, {"open_loop"}, generator()).open_loop.start
    assert sorted(set(starts.flatten().tolist())) == list(range(8))


def test_gather_rows() -> None:
    x = torch.arange(24).reshape(2, 4, 3)
    at = torch.tensor([[3, 0], [1, 1]])
    assert gather_rows(x, at).tolist() == [[x[0, 3].tolist(), x[0, 0].tolist()], [x[1, 1].tolist()] * 2]
    assert gather_rows(x.bool(), at[..., None]).shape == (2, 2, 1, 3)
    assert gather_rows(x[..., 0], at).shape == (2, 2)


def test_open_loop_needs_room_and_an_rng() -> None:
    model = made("zhp")
    with pytest.raises(UserError, match="windows of 4 rows cannot hold open-loop rollouts of 4 steps: raise train"):
        model.observe(windows(1, length=4)[0], {"open_loop"}, generator())
    with pytest.raises(UserError, match="pass an rng to observe"):
        model.observe(windows(1)[0], {"open_loop"})


def test_some_rows_are_decoded_in_training_and_all_without_an_rng() -> None:
    batch, begins = windows(1)[0], set()
    model = tiny(decode_rows=4)
    for seed in range(40):
        roll = model.observe(batch, {"recon"}, generator(seed))
        assert roll.recon.shape == (6, 4, 3, 64, 64)
        rows = roll.recon_rows.tolist()
        assert rows == list(range(rows[0], rows[0] + 4))
        begins.add(rows[0])
        torch.testing.assert_close(roll.recon, model.decoder(roll.z[:, rows]))
    assert begins == set(range(9))
    for roll in (model.observe(batch, {"recon"}), tiny(decode_rows=0).observe(batch, {"recon"}, generator())):
        assert roll.recon_rows.tolist() == list(range(12))
        assert roll.recon.shape[1] == 12
    assert tiny(decode_rows=99).observe(batch, {"recon"}, generator()).recon.shape[1] == 12


def test_a_measured_pose_is_the_same_in_every_window() -> None:
    model, batch = made("zhp"), windows(1)[0]
    p = model.observe(batch, {"p"}).p
    torch.testing.assert_close(p[:, 6:], model.observe(batch[:, 6:], {"p"}).p, atol=1e-5, rtol=1e-4)
    alike = (batch.obs["image"].flatten(0, 1).flatten(1)[:, None] == batch.obs["image"].flatten(0, 1).flatten(1)).all(
        -1
    )
    gap = (p.flatten(0, 1)[:, None] - p.flatten(0, 1)).abs().amax(-1)
    assert gap[alike].max() < 1e-4


def test_pose_by_odometry_or_by_measurement() -> None:
    walking, looking = made("zhp", "odometry"), made("zhp")
    state = filtered(walking, windows(1)[0])[-1]
    action = walking.action.sample((6,), generator())
    after = walking.step(state, action)
    torch.testing.assert_close(after.p, state.p + walking.odometry(state.p, state.h, action))
    torch.testing.assert_close(looking.step(state, action).p, looking.pose_of(looking.step(state, action).z))


def test_distance_and_disagreement_of_two_poses() -> None:
    model = made("zhp", "residual")
    states = filtered(model, windows(1)[0])
    a, b = states[2], states[9]
    seen = (a.z - b.z).norm(dim=-1)
    torch.testing.assert_close(model.distance(a, b), model.metric(a.p, b.p))
    torch.testing.assert_close(model.distance(a, b, "z"), seen)
    torch.testing.assert_close(model.distance(a, b, "mixed"), model.metric(a.p, b.p) + 0.1 * seen)
    torch.testing.assert_close(model.disagreement(a, b), seen / (1 + model.metric(a.p, b.p)))


def test_a_summed_pose_needs_both_stopped_gradients() -> None:
    config = registry.get("model", "zhp").Config
    for flag in ("stop_grad_to_encoder", "stop_grad_to_predictor"):
        with pytest.raises(UserError, match="keep stop_grad_to_encoder and stop_grad_to_predictor true"):
            validate(config(pose="summed", **{flag: False}))


def test_the_metric_must_fit_the_pose() -> None:
    with pytest.raises((UserError, ValueError), match="pose size 12 is not a multiple of 8"):
        tiny(metric="interval", p=12)


def test_continuous_actions() -> None:
    spec = make_env("continuous").spec
    model, batch = tiny(spec=spec), windows(1, actions="continuous")[0]
    roll = model.observe(batch, model.provides, generator())
    assert roll.dp.shape == (6, 11, 8)
    states = model.imagine(filtered(model, batch)[-1], spec.action.sample((6, 2, 3), generator()))
    assert states.p.shape == (6, 2, 3, 8)


def test_a_summed_pose_continues_across_episodes_in_a_window() -> None:
    """Filtering starts p at 0 with each episode; a taught window sums from its own first row."""
    model, batch = made("zhp", "running sum"), windows(1)[0]
    roll = model.observe(batch, {"p", "dp"}, generator())
    torch.testing.assert_close(roll.p[:, 1:] - roll.p[:, :-1], roll.dp)
    assert not bool(roll.p[:, 0].any())


def test_needs_of_zhp() -> None:
    costs = {
        "h": {"encoder", "embed", "cell", "z2h"},
        "z_hat": {"encoder", "embed", "cell", "z2h", "h2z"},
        "p": {"encoder", "pose"},
        "dp": {"encoder", "embed", "cell", "z2h", "pose", "delta_p"},
        "recon": {"encoder", "decoder"},
        "open_loop": {"encoder", "embed", "cell", "z2h", "h2z"},
    }
    model, batch = made("zhp"), windows(1)[0]
    called: set[str] = set()
    for part, child in model.named_modules():
        if part:
            child.register_forward_hook(lambda m, args, out, part=part: called.add(part.split(".")[0]))
    for field, parts in costs.items():
        called.clear()
        roll = model.observe(batch, {field}, generator())
        assert called == parts
        assert field in roll.fields
    roll = model.observe(batch, {"z"}, generator())
    with pytest.raises(AttributeError, match="rollout holds z, z_in, not 'p': add it to the loss's `reads`"):
        _ = roll.p
