"""RNN, SSM and RSSM: what their beliefs may know, where noise enters, and that every way of running is the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tinymodel import filtered, generator, same, tiny, windows
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Batch, Spec
from isochrone.data.collect import collect, random_policy
from isochrone.data.replay import ReplayBuffer
from isochrone.envs.counter import Counter, CounterConfig, read
from isochrone.models.statespace import rows_after, sample_starts

KINDS = ("rnn", "ssm", "rssm")
each_kind = pytest.mark.parametrize("name", KINDS)
WAYS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "categorical": {"classes": 6, "cell": "ln_gru", "norm": "layer", "act": "silu", "initial_state": "learned"},
    "blocks": {"classes": 4, "cell": "block_gru", "norm": "rms", "act": "silu"},
    "decoupled": {"posterior": "decoupled"},
}
each_way = pytest.mark.parametrize("way", WAYS)


def parts(belief: Any) -> list[Tensor]:
    return list(vars(belief).values())


@each_kind
@each_way
def test_a_prior_has_not_seen_its_frame_and_a_posterior_has(name: str, way: str) -> None:
    """Changing o_t moves the posterior from t on, the prior from t + 1; changing a_t moves both from t + 1."""
    model, batch = tiny(name, **WAYS[way]), windows(1)[0]
    fields = {"prior", "posterior", "feat"}
    base = model.observe(batch, fields)
    for t in (1, 5, 9):
        image, action = batch.obs["image"].clone(), batch.action.clone()
        image[:, t] = 255 - image[:, t]
        action[:, t] = action[:, t].roll(1, -1)
        seen = model.observe(batch.replace(obs={"image": image}), fields)
        done = model.observe(batch.replace(action=action), fields)
        for other, prior, posterior in ((seen, t + 1, t), (done, t + 1, t + 1)):
            for a, b in zip(parts(base.prior), parts(other.prior), strict=True):
                torch.testing.assert_close(a[:, :prior], b[:, :prior])
                if "classes" not in WAYS[way]:  # the likeliest class may stay what it was
                    assert not torch.equal(a[:, prior:], b[:, prior:])
            for a, b in zip(parts(base.posterior), parts(other.posterior), strict=True):
                torch.testing.assert_close(a[:, :posterior], b[:, :posterior])
                later = torch.equal(a[:, posterior:], b[:, posterior:])
                if "classes" not in WAYS[way]:
                    assert later == (way == "decoupled" and other is done), "decoupled: it never hears of actions"


@each_kind
@each_way
def test_beliefs_of_a_window_across_episodes_equal_those_of_its_episodes_alone(name: str, way: str) -> None:
    model, batch = tiny(name, **WAYS[way]), windows(1)[0]
    whole = model.observe(batch, {"prior", "posterior"})
    for b in range(6):
        begins = [0, *(t for t in range(1, 12) if batch.first[b, t])]
        assert len(begins) > 1
        for begin, end in zip(begins, [*begins[1:], 12], strict=True):
            apart = model.observe(batch[b : b + 1, begin:end], {"prior", "posterior"})
            for field in ("prior", "posterior"):
                for x, y in zip(parts(whole.fields[field]), parts(apart.fields[field]), strict=True):
                    torch.testing.assert_close(x[b, begin:end], y[0], atol=1e-5, rtol=1e-4)


@each_kind
@each_way
def test_a_batch_equals_its_rows_one_by_one(name: str, way: str) -> None:
    model, batch = tiny(name, **WAYS[way]), windows(1)[0]
    together = model.observe(batch, {"feat"}).feat
    for b in range(6):
        torch.testing.assert_close(model.observe(batch[b : b + 1], {"feat"}).feat[0], together[b], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ssm", "rssm"])
@pytest.mark.parametrize("classes", [0, 6])
def test_all_noise_comes_from_the_generator(name: str, classes: int) -> None:
    model, batch = tiny(name, classes=classes), windows(1)[0]
    with torch.no_grad():
        one, two, three = (model.observe(batch, {"feat"}, generator(s)).feat for s in (1, 1, 2))
        assert torch.equal(one, two)
        assert not torch.equal(one, three)
        states = [model.update(model.start(6), batch.action[:, 0], {"image": batch.obs["image"][:, 0]}, generator(s))
                  for s in (1, 1, 2)]  # fmt: skip
        assert torch.equal(states[0].z, states[1].z)
        assert not torch.equal(states[0].z, states[2].z)
        actions = model.action.sample((6, 4, 5), generator())
        paths = [model.imagine(states[0], actions, generator(s)).feat() for s in (1, 1, 2)]
        assert torch.equal(paths[0], paths[1])
        assert not torch.equal(paths[0], paths[2])


def test_a_deterministic_latent_uses_no_random_numbers() -> None:
    model, batch = tiny("rnn"), windows(1)[0]
    assert torch.equal(model.observe(batch, {"feat"}, generator(1)).feat, model.observe(batch, {"feat"}).feat)


@each_kind
def test_with_shared_noise_imagined_paths_do_not_depend_on_the_other_rows(name: str) -> None:
    """The noise belongs to the candidate: planning a batch is planning its rows."""
    model = tiny(name)
    state, actions = filtered(model, windows(1)[0])[-1], model.action.sample((6, 4, 5), generator())
    together = model.imagine(state, actions, generator(7), shared_noise=True)
    same(together[2:3], model.imagine(state[2:3], actions[2:3], generator(7), shared_noise=True))
    ends = together.z[0, :, 0]
    assert model.is_stochastic == bool(
        (ends[0] != ends[1]).any() or not torch.equal(actions[0, 0, 0], actions[0, 1, 0])
    )


@each_kind
def test_by_default_every_row_has_noise_of_its_own(name: str) -> None:
    model = tiny(name)
    state = filtered(model, windows(1)[0])[-1].map(lambda x: x[:1].expand(6, *x.shape[1:]))
    actions = model.action.sample((1, 4, 5), generator()).expand(6, -1, -1, -1)
    z = model.imagine(state, actions, generator(7)).z
    assert model.is_stochastic != torch.equal(z[0], z[1])
    z = model.imagine(state, actions, generator(7), shared_noise=True).z
    assert torch.equal(z[0], z[1])


@each_kind
def test_decoding_and_heads_read_the_features_of_a_state(name: str) -> None:
    model, batch = tiny(name), windows(1)[0]
    roll = model.observe(batch, {"states", "image_hat", "target", "frames"})
    torch.testing.assert_close(model.decode(roll.states), roll.image_hat + 0.5)
    assert roll.image_hat.shape == roll.target["image"].shape == batch.obs["image"].shape
    assert torch.equal(roll.frames, roll.target["image"])
    some = model.observe(batch, {"target", "image_hat", "states"}, generator())
    assert some.image_hat.shape == some.target["image"].shape == (6, 4, 3, 64, 64)
    shown = model.decode(some.states) - 0.5
    for b in range(6):
        for r in range(4):
            row = (some.target["image"][b, r] == roll.frames[b]).flatten(1).all(1).nonzero()[:, 0]
            errors = [(shown[b, t] - some.image_hat[b, r]).abs().max().item() for t in row.tolist()]
            assert min(errors) < 1e-5, "a decoded row stands beside its own target"
    assert roll.target["image"].min() >= -0.5
    assert roll.target["image"].max() <= 0.5
    state = filtered(model, batch)[3]
    assert model.rewards(state).shape == (6,)
    assert ((model.continues(state) > 0) & (model.continues(state) < 1)).all()
    size = model.latent.sample_size + (16 if model.has_memory else 0)
    assert state.feat().shape == (6, size)


# --- overshooting


def test_overshooting_stays_in_its_episode() -> None:
    first = torch.tensor([[1, 0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    last = torch.tensor([[0, 0, 1, 0, 0, 0, 0]], dtype=torch.bool)
    empty = torch.zeros(1, 7)
    batch = Batch({}, torch.zeros(1, 7, 2), empty, first, last, last)
    start = sample_starts(batch, 0, None)
    assert start.tolist() == [[0, 1, 2, 3, 4, 5]]
    rows, valid = rows_after(batch, start, 3)
    assert rows[0].tolist() == [[1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 6], [6, 6, 6]]
    assert valid[0].int().tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]


@each_kind
@each_way
def test_overshooting_equals_imagine_from_each_posterior(name: str, way: str) -> None:
    model, batch = tiny(name, rollout_starts=0, **WAYS[way]), windows(1)[0]
    roll = model.observe(batch, {"feat", "prior", "overshoot"})
    over, states = roll.overshoot, filtered(model, batch)
    for t in (0, 4, 8):
        dreamt = model.imagine(states[t], batch.action[:, None, t : t + 3])
        torch.testing.assert_close(over.feat[:, t], dreamt.feat()[:, 0], atol=1e-5, rtol=1e-4)
    inside = over.valid[:, :, 0]
    for a, b in zip(parts(over.prior), parts(over.target(roll.prior)), strict=True):
        torch.testing.assert_close(a[:, :, 0][inside], b[:, :, 0][inside], atol=1e-5, rtol=1e-4)


def test_overshooting_beyond_the_window_is_refused_before_and_while_observing() -> None:
    model, batch = tiny("rssm", overshoot=12), windows(1)[0]
    with pytest.raises(UserError, match=r"model\.overshoot = 12: .* 1 to 11 steps in windows of 12 rows"):
        model.observe(batch, {"overshoot"})
    with pytest.raises(UserError, match=r"model\.overshoot = 12: windows have only train\.length = 12 rows"):
        model.config.check_window(12, "model.")
    model.config.check_window(13, "model.")


def test_a_random_start_needs_a_generator() -> None:
    model, batch = tiny("rssm", rollout_starts=2), windows(1)[0]
    with pytest.raises(UserError, match="pass an rng to observe"):
        model.observe(batch, {"overshoot"})
    assert model.observe(batch, {"overshoot"}, generator()).overshoot.start.shape == (6, 2)


# --- rows and sizes


@each_kind
def test_the_prior_of_a_row_uses_the_action_before_it(name: str) -> None:
    """The environment says which action led to every row; single steps with that action give the same priors."""
    env = Counter(CounterConfig(length=4, actions=5, size=16), num_envs=3)
    replay, rng = ReplayBuffer(env.spec, 3, 80), generator()
    collect(env, random_policy(env.spec.action, rng), replay, 240, rng)
    batch = replay.sample(8, 11, generator(1))
    model = tiny(name, env.spec)
    roll, said = model.observe(batch, {"feat", "prior"}), read(batch.obs["state"])
    states = filtered(model, batch)
    for t in range(10):
        action = env.spec.action.one_hot(said.action[:, t + 1].clamp_min(0))
        after = model.step(states[t], action)
        go_on = ~batch.first[:, t + 1]
        torch.testing.assert_close(after.z[go_on], roll.prior.mode()[go_on, t + 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("encoder", "side", "want"), [("planet", 32, "64x64 only"), ("dreamer", 40, "multiples of 16")]
)
def test_an_image_that_does_not_fit_names_the_sizes_that_do(encoder: str, side: int, want: str) -> None:
    spec = Spec({"image": (3, side, side)}, ActionSpec("continuous", 2))
    with pytest.raises(UserError, match=rf"image size {side}x{side}: the '{encoder}' networks take {want}"):
        tiny("rssm", spec, encoder=encoder)


@pytest.mark.parametrize("encoder", ["planet", "dreamer", "patch", "conv"])
def test_every_image_network_fits_64_pixels(encoder: str) -> None:
    model = tiny("rssm", encoder=encoder, depth=4)
    batch = windows(1)[0][:2, :2]
    image, roll = batch.obs["image"], model.observe(batch, {"embed", "states"})
    embed = roll.embed
    assert embed.shape == (2, 2, model.encoder.out)
    assert {"planet": 128, "dreamer": 512}.get(encoder, 8) == model.encoder.out
    assert model.decode(roll.states).shape == image.shape


def test_vectors_are_encoded_beside_pixels_or_alone() -> None:
    for obs in ({"image": (3, 16, 16), "state": (4,)}, {"state": (4,), "goal": (2, 3)}):
        spec = Spec(obs, ActionSpec("continuous", 2))
        model = tiny("rssm", spec)
        flat = {"image": torch.zeros(2, 5, 3, 16, 16, dtype=torch.uint8), "state": torch.randn(2, 5, 4) * 100}
        flat["goal"] = torch.randn(2, 5, 6)
        no = torch.zeros(2, 5, dtype=torch.bool)
        batch = Batch({k: flat[k] for k in obs}, torch.zeros(2, 5, 2), torch.zeros(2, 5), no, no, no)
        assert ("image_hat" in model.provides) == ("image" in obs)
        roll = model.observe(batch, model.provides, generator())
        assert set(roll.vectors_hat) == set(obs) - {"image"}
        squashed = flat["state"].sign() * (1 + flat["state"].abs()).log()
        torch.testing.assert_close(roll.target["state"], squashed)


def test_image_bits_5_keeps_five_bits_and_adds_noise_below_them() -> None:
    model, batch = tiny("rssm", image_bits=5), windows(1)[0]
    image = batch.obs["image"]
    drawn = model.observe(batch, {"target"}, generator(1)).target["image"]
    still = model.observe(batch, {"target"}).target["image"]
    low = (image // 8).float() / 32 - 0.5
    assert ((drawn >= low) & (drawn <= low + 1 / 32)).all()
    assert drawn.unique().numel() > 1000
    torch.testing.assert_close(still, low + 1 / 64)
    eight = replace(model.config, image_bits=8)
    torch.testing.assert_close(tiny("rssm").observe(batch, {"target"}).target["image"], image / 255 - 0.5)
    assert eight.image_bits == 8


def embedded(model: Any, image: Tensor) -> Tensor:
    return model.encoder(model.preprocess({"image": image}, None))


@pytest.mark.parametrize(("encoder", "bits"), [("planet", 8), ("planet", 5), ("patch", 8)])
def test_a_centred_model_encodes_and_decodes_the_difference_from_the_mean_frame(encoder: str, bits: int) -> None:
    (batch,) = windows(1)
    image = batch.obs["image"]
    plain = tiny("rssm", encoder=encoder, depth=4, image_bits=bits)
    model = tiny("rssm", encoder=encoder, depth=4, image_bits=bits, subtract_mean_frame=True)
    fields = {"target", "image_hat", "embed", "states"}
    raw, blank = plain.observe(batch, fields), model.observe(batch, fields)
    torch.testing.assert_close(blank.target["image"], raw.target["image"])  # not calibrated: nothing is subtracted
    model.calibrate(iter([batch[:1], batch[1:2]]))
    plain.calibrate(iter([batch]))  # a plain one has no use for it
    roll = model.observe(batch, fields)
    kept = raw.target["image"] + 0.5  # 0..1
    mean = kept[:2].mean((0, 1))
    torch.testing.assert_close(model.decode(roll.states), roll.image_hat + mean)  # shown: the difference and the rest
    torch.testing.assert_close(roll.target["image"], kept - mean)
    torch.testing.assert_close(embedded(model, image), roll.embed)
    torch.testing.assert_close(embedded(model, kept), roll.embed, atol=1e-5, rtol=1e-4)
    other = tiny("rssm", encoder=encoder, depth=4, image_bits=bits, subtract_mean_frame=True)
    other.load_state_dict(model.state_dict())  # the mean frame is kept in checkpoints
    torch.testing.assert_close(embedded(other, image), roll.embed, atol=0, rtol=0)
    assert "mean_frame" not in plain.state_dict()
    with pytest.raises(UserError, match="no 'image'"):
        tiny("rssm", Spec({"state": (4,)}, ActionSpec("continuous", 2)), subtract_mean_frame=True)


def test_blocks_must_divide_the_size_of_h() -> None:
    from isochrone.core.config import validate

    with pytest.raises(UserError, match=r"model\.deter = 20: a block_gru needs a multiple of model\.blocks = 8"):
        validate(replace(tiny("rssm").config, cell="block_gru", deter=20), "model.")
