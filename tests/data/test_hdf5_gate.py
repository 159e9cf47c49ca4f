"""HDF5 files that lead elsewhere, declare impossible sizes or are damaged are refused in one sentence."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec
from isochrone.data import source
from isochrone.data.episode import Episode
from isochrone.data.formats.hdf5 import Hdf5

SPEC = Spec({"image": (3, 8, 8)}, ActionSpec("discrete", 3))


def episode(length: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    flags = np.arange(length)
    return Episode(
        {"image": rng.integers(0, 255, (length, 3, 8, 8), dtype=np.uint8)},
        np.eye(3, dtype=np.float32)[rng.integers(0, 3, length)],
        np.zeros(length, np.float32),
        flags == 0,
        flags == length - 1,
        np.zeros(length, bool),
    )


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "my.h5"
    Hdf5().write(path, [episode(20, seed) for seed in range(3)], SPEC)
    return path


def _external_link(file: h5py.File, other: Path) -> None:
    file["reward"] = h5py.ExternalLink(str(other), "reward")


def _soft_link(file: h5py.File, other: Path) -> None:
    file["kept"] = np.zeros(60, np.float32)
    file["reward"] = h5py.SoftLink("/kept")


def _loop(file: h5py.File, other: Path) -> None:
    file["reward"] = h5py.SoftLink("/reward")


def _virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((60,), "f4")
    layout[...] = h5py.VirtualSource(str(other), "reward", (60,))
    file.create_virtual_dataset("reward", layout)


def _external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("reward", (60,), "f4", external=[(str(other), 0, 240)])


def _references(file: h5py.File, other: Path) -> None:
    file.create_dataset("reward", data=np.array([file.ref] * 60, dtype=h5py.ref_dtype))


def _texts(file: h5py.File, other: Path) -> None:
    file["reward"] = ["a"] * 60


def _scalar(file: h5py.File, other: Path) -> None:
    file["reward"] = 3.0


def _nothing(file: h5py.File, other: Path) -> None:
    file["reward"] = h5py.Empty("f4")


def _huge(file: h5py.File, other: Path) -> None:
    file.create_dataset("reward", (10**12,), "f4", chunks=(1024,))


def _huge_chunk(file: h5py.File, other: Path) -> None:
    file.create_dataset("reward", (60,), "f4", chunks=(2**29,), maxshape=(None,))


ELSEWHERE: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external link": (_external_link, "'reward' is a link to another place"),
    "soft link": (_soft_link, "'reward' is a link to another place"),
    "loop": (_loop, "'reward' is a link to another place"),
    "virtual": (_virtual, "the rows of 'reward' lie in another file"),
    "external storage": (_external_storage, "the rows of 'reward' lie in another file"),
    "references": (_references, "'reward' holds references to other objects, not numbers"),
    "texts": (_texts, "'reward' holds texts, not numbers"),
    "scalar": (_scalar, "'reward' is a single value or nothing"),
    "nothing": (_nothing, "'reward' is a single value or nothing"),
    "huge": (_huge, "'reward' of shape .* would take 4000000 MB, which a file of .* MB cannot hold"),
    "huge chunk": (_huge_chunk, "would take 2147 MB"),
}


@pytest.mark.parametrize(("change", "words"), ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_datasets_that_are_not_rows_of_the_file(
    recording: Path, tmp_path: Path, change: Callable[[h5py.File, Path], None], words: str
) -> None:
    other = tmp_path / "other.h5"
    Hdf5().write(other, [episode(20, seed) for seed in range(3)], SPEC)
    with h5py.File(recording, "r+") as file:
        del file["reward"]
        change(file, other)
    for read in (source.validate, source.describe, source.load_into):
        try:
            read(recording)
        except UserError as error:
            assert str(recording) in str(error)
            assert re.search(words, str(error)), error
        else:
            assert read is source.describe, "it looks at no reward"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("format", np.zeros((2, 2)), "must be 'isochrone-episodes'"),
        ("version", "one", "version = one"),
        ("action_names", 3, "action_names = 3; must be 3 texts"),
        ("action_names", ["a"], "must be 3 texts"),
        ("action_noop", "x", "action_noop = 'x'; must be a whole number"),
        ("action_noop", 7, "noop 7 is not one of 3 actions"),
        ("action_inverse", 2.5, "action_inverse = 2.5; must be made of whole numbers"),
        ("action_kind", h5py.Empty("f4"), "action_kind = None"),
    ],
)
def test_attributes_of_other_types(recording: Path, name: str, value: object, words: str) -> None:
    with h5py.File(recording, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(UserError, match=words):
        source.validate(recording)


def test_an_attribute_that_refers_to_an_object(recording: Path) -> None:
    with h5py.File(recording, "r+") as file:
        file.attrs["action_kind"] = file.ref
    with pytest.raises(UserError, match="attribute 'action_kind' is neither a number nor a text"):
        source.validate(recording)


@pytest.mark.parametrize("lengths", [[-1, 20, 41], [2**62, 2**62, 60], [0, 0, 61]])
def test_lengths_out_of_range(recording: Path, lengths: list[int]) -> None:
    with h5py.File(recording, "r+") as file:
        file["lengths"][...] = lengths
    with pytest.raises(UserError, match="lengths go from"):
        source.validate(recording)


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(recording: Path) -> None:
    data, choose = recording.read_bytes(), random.Random(0)
    want = source.validate(recording)
    rows = [e.obs["image"].tobytes() for e in Hdf5().read(recording)]
    noticed = 0
    for _ in range(60):
        at = choose.randrange(len(data))
        recording.write_bytes(data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :])
        try:
            assert source.validate(recording) == want
            assert [e.obs["image"].tobytes() for e in Hdf5().read(recording)] == rows
        except UserError:
            noticed += 1
    assert noticed > 20


def test_a_recording_that_is_open_in_a_writer_is_said_to_be(recording: Path) -> None:
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() == "FALSE":
        pytest.skip("HDF5 locks no files here")
    import subprocess
    import sys

    code = "import sys; from isochrone.data.source import validate; validate(sys.argv[1])"
    with h5py.File(recording, "r+"):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code, str(recording)], capture_output=True, text=True, env=env)
    assert "UserError: " in done.stderr
    assert "is open for writing in another program" in done.stderr


def test_a_pipe_is_no_recording(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "my.h5")
    with pytest.raises(UserError, match="is a pipe or a device"):
        source.validate(tmp_path / "my.h5")
