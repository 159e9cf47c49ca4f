"""HDF5 recordings: there and back, straight into a replay, and every way a file can be wrong."""

import dataclasses

import h5py
import numpy as np
import pytest

from isochrone.core import registry
from isochrone.core.config import component_config, to_dict, validate
from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec
from isochrone.data import source
from isochrone.data.episode import Episode
from isochrone.data.formats.hdf5 import Hdf5, Hdf5Config
from isochrone.data.source import assign, histories, load_into, open_format

DISCRETE = Spec({"image": (3, 12, 10)}, ActionSpec("discrete", 3, ("left", "stay", "right"), 1, (2, 1, 0)))
BOX = Spec({"image": (3, 12, 10), "state": (2,)}, ActionSpec("continuous", 2, noop=0))


def episode(spec, length, seed):
    rng = np.random.default_rng(seed)
    obs: dict[str, np.ndarray] = {"image": rng.integers(0, 255, (length, 3, 12, 10), dtype=np.uint8)}
    if "state" in spec.obs:
        obs["state"] = rng.normal(size=(length, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (length, spec.action.size)).astype(np.float32)
    if spec.action.discrete:
        action = np.eye(spec.action.size, dtype=np.float32)[action.argmax(-1)]
    first, last = np.arange(length) == 0, np.arange(length) == length - 1
    reward = np.where(first, 0, rng.normal(size=length)).astype(np.float32)
    return Episode(obs, action, reward, first, last, last & (seed % 2 == 0))


def same(one, two):
    return all(np.array_equal(a, two.columns()[name]) for name, a in one.columns().items())


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "my.h5"
    Hdf5().write(path, (episode(DISCRETE, n, n) for n in (5, 40, 2, 17)), DISCRETE)
    return path


@pytest.mark.parametrize("spec", [DISCRETE, BOX])
@pytest.mark.parametrize("compress", [0, 1])
def test_there_and_back(spec, compress, tmp_path):
    written = [episode(spec, n, n) for n in (5, 40, 2, 17)]
    path = tmp_path / "my.hdf5"
    assert Hdf5(Hdf5Config(compress)).write(path, iter(written), spec) == 4
    assert open_format(path).spec(path) == spec
    back = list(open_format(path).read(path))
    assert len(back) == 4
    assert all(same(a, b) for a, b in zip(written, back, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["my.hdf5"]  # nothing left aside
    report = source.validate(path)
    assert (report["episodes"], report["rows"], report["shortest"], report["longest"]) == (4, 64, 2, 40)
    assert report["terminal"] == 2
    assert report["obs"]["image"] == [3, 12, 10]
    assert report["action"]["kind"] == spec.action.kind
    assert len(report["action_use"]) == spec.action.size


def test_it_is_registered_with_its_config():
    assert registry.get("format", "hdf5") is Hdf5
    assert "hdf5" in registry.names("format")
    assert to_dict(validate(component_config("format", "hdf5"))) == {"name": "hdf5", "compress": 1, "chunk": 16}
    with pytest.raises(
        UserError, match="my.csv: none of the formats hdf5, lerobot recognises it .and there is no such file"
    ):
        open_format("my.csv")


@pytest.mark.parametrize("on_disk", [False, True])
def test_episodes_are_spread_over_environments(recording, on_disk, tmp_path):
    folder = tmp_path / "ring" if on_disk else None
    replay = load_into(recording, folder, num_envs=2)
    assert replay.num_envs == 2
    assert replay.capacity == 40
    assert len(replay) == 64
    want = {n: episode(DISCRETE, n, n) for n in (5, 40, 2, 17)}
    episodes = list(replay.episodes())
    assert sorted(len(e) for e in episodes) == [2, 5, 17, 40]
    assert all(same(e, want[len(e)]) for e in episodes)
    assert load_into(recording).num_envs == 2
    if on_disk:
        with pytest.raises(UserError, match="already holds 64 rows"):
            load_into(recording, folder, num_envs=2)


def test_environments_get_about_equally_many_rows():
    lengths = np.array([5, 40, 2, 17, 30])
    env_of, filled = assign(lengths, 2)
    assert env_of.tolist() == [0, 0, 0, 1, 1]
    assert filled.tolist() == [47, 47]


@pytest.mark.parametrize(
    ("lengths", "count"),
    [([20] * 50, 32), ([20] * 7, 7), ([4000] + [20] * 31, 2), ([500, 500, 20, 20], 2), ([300] * 3 + [50] * 12, 5)],
)
def test_one_long_episode_means_fewer_histories(lengths, count):
    """All histories are as long as the fullest: with 32 of them one long episode would take 27 times the file."""
    assert histories(np.array(lengths)) == count
    filled = assign(np.array(lengths), count)[1]
    assert len(filled) * filled.max() <= 2 * sum(lengths)


def test_a_recording_larger_than_the_budget_is_refused(recording, tmp_path):
    with pytest.raises(UserError, match="would take 0 MB as a replay of 2 x 40 rows, more than data.budget_mb = 0.001"):
        load_into(recording, tmp_path / "ring", budget_mb=0.001)
    assert not (tmp_path / "ring").exists()


def test_a_replay_can_be_exported(recording, tmp_path):
    replay = load_into(recording, num_envs=3)
    again = tmp_path / "again.h5"
    Hdf5().write(again, replay.episodes(), replay.spec)
    assert sorted(Hdf5().lengths(again).tolist()) == [2, 5, 17, 40]


# --- bad files ---


def test_missing_truncated_and_foreign_files(recording, tmp_path):
    with pytest.raises(UserError, match="nothing.h5: no such file"):
        source.validate(tmp_path / "nothing.h5")
    raw = recording.read_bytes()
    for size in (0, 100, len(raw) // 2, len(raw) - 10):
        recording.write_bytes(raw[:size])
        with pytest.raises(UserError, match="truncated"):
            source.validate(recording)
        with pytest.raises(UserError, match="truncated"):
            load_into(recording)
    recording.write_bytes(b"no HDF5 at all" * 100)
    with pytest.raises(UserError, match="not an HDF5 file"):
        Hdf5().spec(recording)


def test_damaged_rows_are_a_sentence(recording):
    raw = bytearray(recording.read_bytes())
    with h5py.File(recording) as file:
        where = file["obs/image"].id.get_chunk_info(1).byte_offset
    raw[where : where + 200] = bytes(200)  # the second chunk: rows of episode 1
    recording.write_bytes(bytes(raw))
    with pytest.raises(UserError, match="truncated or damaged"):
        source.validate(recording)


def exchange(name, change):
    """Replace a dataset by `change(of it)`; None deletes it."""

    def edit(file):
        data = None if change is None else change(file[name][:])
        del file[name]
        if data is not None:
            file[name] = data

    return edit


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


BAD = {
    "image not uint8": (exchange("obs/image", lambda a: a.astype(np.float32)), "obs/image is float32, must be uint8"),
    "image flat": (exchange("obs/image", lambda a: a.reshape(len(a), -1)), r"must be \(C, Y, X\)"),
    "image Y X C": (exchange("obs/image", lambda a: a.transpose(0, 2, 3, 1)), r"look like \(Y, X, C\); transpose"),
    "action as index": (exchange("action", lambda a: a.argmax(-1)), r"action has shape \(64,\), must be \(N, A\)"),
    "action float64": (exchange("action", lambda a: a.astype(np.float64)), "action is float64, must be float32"),
    "action out of range": (exchange("action", put((6, 0), 2.0)), "episode 1: action .* at row 1 is out of range"),
    "action NaN": (exchange("action", put((6, 0), np.nan)), "episode 1: action is nan at row 1"),
    "reward beside the action": (
        exchange("reward", lambda a: np.ones_like(a)),
        "episode 0: reward is 1 on its first row, where nothing has arrived yet: your rewards lie beside the action",
    ),
    "reward NaN": (exchange("reward", put(46, np.nan)), "episode 2: reward is nan at row 1"),
    "reward infinite": (exchange("reward", put(0, np.inf)), "episode 0: reward is inf at row 0"),
    "reward shape": (exchange("reward", lambda a: a[:, None]), r"reward has rows of shape \(1,\), the spec says \(\)"),
    "reward missing": (exchange("reward", None), "dataset 'reward' is missing; the file holds action"),
    "terminal inside": (
        exchange("terminal", put(1, True)),
        "episode 0: 'terminal' is true on a row that is not 'last'",
    ),
    "terminal dtype": (exchange("terminal", lambda a: a.astype(np.uint8)), "terminal is uint8, must be bool"),
    "unequal lengths": (exchange("reward", lambda a: a[:-3]), "arrays have unequal lengths"),
    "lengths sum": (exchange("lengths", put(0, 6)), "lengths sum to 65, but there are 64 rows"),
    "length 1": (
        exchange("lengths", lambda a: np.array([5, 40, 1, 18])),
        "episode 2 has length 1: an episode needs at least 2",
    ),
    "lengths float": (exchange("lengths", lambda a: a.astype(np.float32)), "lengths is float32"),
    "no episodes": (exchange("lengths", lambda a: a[:0]), "holds no episodes"),
    "no obs": (lambda file: file.__delitem__("obs"), "group 'obs' is missing"),
    "no kind": (attribute("action_kind", "both"), "action_kind = 'both'; must be 'discrete' or 'continuous'"),
    "other format": (attribute("format", "d4rl"), "attribute format = 'd4rl'"),
    "other version": (attribute("version", 9), "version = 9"),
}


@pytest.mark.parametrize("edit,words", BAD.values(), ids=BAD.keys())
def test_bad_recordings_are_refused(edit, words, recording):
    with h5py.File(recording, "r+") as file:
        edit(file)
    with pytest.raises(UserError, match=words) as error:
        source.validate(recording)
    assert str(recording) in str(error.value)
    with pytest.raises(UserError):
        load_into(recording)


def test_bad_episodes_are_not_written(tmp_path):
    path = tmp_path / "my.h5"
    good = episode(DISCRETE, 5, 0)
    bad = dataclasses.replace(good, reward=np.full(5, np.nan, np.float32))
    with pytest.raises(UserError, match="episode 1: reward is nan"):
        Hdf5().write(path, [good, bad], DISCRETE)
    with pytest.raises(UserError, match="no episodes to write"):
        Hdf5().write(path, [], DISCRETE)
    with pytest.raises(UserError, match="cannot be written"):
        Hdf5().write(tmp_path / "nowhere" / "my.h5", [good], DISCRETE)
    assert not list(tmp_path.iterdir())
    Hdf5().write(path, [good], DISCRETE)
    with pytest.raises(UserError):
        Hdf5().write(path, [bad], DISCRETE)
    assert next(Hdf5().read(path)).reward[0] == good.reward[0]  # the older file is intact
