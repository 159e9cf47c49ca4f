"""Every way in which an episode can be unfit to learn from is a sentence."""

import dataclasses
import json

import numpy as np
import pytest

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec
from isochrone.data.episode import Episode, check, read_spec, spec_to_dict

DISCRETE = Spec({"image": (3, 4, 4)}, ActionSpec("discrete", 3, ("left", "stay", "right"), 1, (2, 1, 0)))
BOX = Spec({"image": (3, 4, 4), "state": (2,)}, ActionSpec("continuous", 2, noop=0))


def episode(spec, length=5, seed=0):
    rng = np.random.default_rng(seed)
    obs: dict[str, np.ndarray] = {"image": rng.integers(0, 255, (length, 3, 4, 4), dtype=np.uint8)}
    if "state" in spec.obs:
        obs["state"] = rng.normal(size=(length, 2)).astype(np.float32)
    if spec.action.discrete:
        action = np.eye(spec.action.size, dtype=np.float32)[rng.integers(0, spec.action.size, length)]
    else:
        action = rng.uniform(-1, 1, (length, spec.action.size)).astype(np.float32)
    first, last = np.arange(length) == 0, np.arange(length) == length - 1
    reward = np.where(first, 0, rng.normal(size=length)).astype(np.float32)
    return Episode(obs, action, reward, first, last, last & (seed % 2 == 0))


def changed(spec, name, change, seed=0):
    old = episode(spec, seed=seed)
    if name in old.obs:
        return dataclasses.replace(old, obs=old.obs | {name: change(old.obs[name].copy())})
    return dataclasses.replace(old, **{name: change(getattr(old, name).copy())})


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


BAD = [
    (DISCRETE, "reward", lambda a: a[:-1], "unequal lengths"),
    (DISCRETE, "image", lambda a: a.astype(np.float32), "obs/image is float32, must be uint8"),
    (DISCRETE, "image", lambda a: a[:, :, :3], "rows of shape"),
    (DISCRETE, "action", lambda a: a.astype(np.float64), "action is float64, must be float32"),
    (DISCRETE, "action", lambda a: a[:, :2], "rows of shape"),
    (DISCRETE, "action", put((2, 0), np.nan), "action is nan at row 2"),
    (DISCRETE, "action", put(3, [1, 1, 0]), "at row 3 is out of range; discrete actions are one-hot"),
    (DISCRETE, "action", put(3, [0, 0, 0]), "one-hot"),
    (DISCRETE, "action", put(3, [0.5, 0.5, 0]), "one-hot"),
    (DISCRETE, "reward", put(1, np.nan), "reward is nan at row 1"),
    (DISCRETE, "reward", put(0, 0.5), "reward is 0.5 on its first row, where nothing has arrived yet"),
    (DISCRETE, "reward", put(4, -np.inf), "reward is -inf at row 4"),
    (DISCRETE, "terminal", lambda a: a.astype(np.uint8), "terminal is uint8, must be bool"),
    (DISCRETE, "terminal", put(1, True), "'terminal' is true on a row that is not 'last'"),
    (DISCRETE, "first", put(0, False), "'first' must be true on row 0"),
    (DISCRETE, "first", put(3, True), "'first' must be true on row 0"),
    (DISCRETE, "last", put(2, True), "'last' is true before"),
    (BOX, "action", put((1, 1), 1.5), r"at row 1 is out of range; continuous actions lie in \[-1, 1\]"),
    (BOX, "state", put((1, 1), np.nan), "obs/state is nan at row 1"),
]


@pytest.mark.parametrize("spec", [DISCRETE, BOX])
def test_good_episodes_pass(spec):
    good = episode(spec)
    assert check(good, spec) is good
    assert len(good) == 5
    assert Episode.of(good.columns()).columns().keys() == good.columns().keys()


@pytest.mark.parametrize("spec,name,change,words", BAD, ids=[f"{b[1]}-{b[3][:24]}" for b in BAD])
def test_bad_episodes_are_refused(spec, name, change, words):
    with pytest.raises(UserError, match=f"ep 7.*{words}"):
        check(changed(spec, name, change), spec, "ep 7")


def test_an_episode_of_length_1_is_refused():
    with pytest.raises(UserError, match="has length 1: an episode needs at least 2 rows"):
        check(episode(DISCRETE, 1), DISCRETE)


def test_wrong_columns_and_channels_last_are_named():
    with pytest.raises(UserError, match="differing: .*obs/state"):
        check(episode(DISCRETE), BOX)
    turned = changed(DISCRETE, "image", lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)))
    with pytest.raises(UserError, match=r"transpose it to \(C, Y, X\)"):
        check(turned, DISCRETE)


@pytest.mark.parametrize("spec", [DISCRETE, BOX])
def test_spec_survives_json(spec, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(spec_to_dict(spec)))
    assert read_spec(tmp_path / "spec.json") == spec
