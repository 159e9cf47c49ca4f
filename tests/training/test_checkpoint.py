"""Checkpoints: whole or absent, verified, refused when they are another model's, safe on a full disk."""

import json
import resource

import pytest
import torch
import toy

from isochrone.core.errors import UserError
from isochrone.training import checkpoint, tree
from isochrone.training.learner import Learner


def save(root, step, model=None, keep=2, **state):
    return checkpoint.save(root, step, learner(model), {"step": step, **state}, keep, "abc")


def learner(model=None):
    return Learner({"model": model or toy.ToyModel()})


def test_round_trip_of_weights_and_state(tmp_path):
    model, other = learner(toy.ToyModel(seed=1)), learner(toy.ToyModel(seed=2))
    state = {"a": {"b": torch.arange(3), "c": [1, "x", None]}, "empty": {}, "t": torch.tensor(True), "f": 0.1}
    folder = checkpoint.save(tmp_path, 12, model, state)
    assert folder.name == "00000012"
    assert sorted(f.name for f in folder.iterdir()) == [
        "manifest.json",
        "trainer.safetensors",
        "weights.safetensors",
    ]
    step, found = checkpoint.load(folder, other)
    assert step == 12
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert torch.equal(found["a"]["b"], torch.arange(3))
    assert found["a"]["c"] == [1, "x", None]
    assert found["empty"] == {}
    assert found["t"].dtype == torch.bool
    assert found["f"] == 0.1


def test_state_that_json_would_change_is_refused():
    for bad in ({"a": (1, 2)}, {"a": {1: 2}}, {"a/b": 1}, {"a": float("nan")}, {"a": object()}):
        with pytest.raises(TypeError):
            tree.pack(bad)


def test_tied_weights_are_stored(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    folder = save(tmp_path, 1, model)
    assert checkpoint.load_weights(folder, learner(model)) == 1


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=3)
    assert checkpoint.steps(tmp_path) == [10, 15, 20]
    save(tmp_path, 25, keep=1)
    assert [f.name for f in tmp_path.iterdir()] == ["00000025"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "no manifest", "half manifest", "no weights"])
def test_a_damaged_one_does_not_count(tmp_path, harm):
    save(tmp_path, 5)
    folder = save(tmp_path, 10)
    weights, manifest = folder / "weights.safetensors", folder / "manifest.json"
    content = weights.read_bytes()
    if harm == "truncate":
        weights.write_bytes(content[:-1])
    elif harm == "flip":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "no manifest":
        manifest.unlink()
    elif harm == "half manifest":
        manifest.write_text(manifest.read_text()[:40])
    else:
        weights.unlink()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.name == "00000005"
    with pytest.raises(UserError, match="not a complete checkpoint|damaged"):
        checkpoint.load(folder, learner())
    assert checkpoint.latest(tmp_path / "nothing") is None


def test_the_layout_of_an_earlier_version_is_refused(tmp_path):
    path = save(tmp_path, 5) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(
        UserError,
        match="is damaged .it was written by another version: format 1, this version reads 2.",
    ):
        checkpoint.verify(path.parent)


def test_another_models_checkpoint_is_refused(tmp_path):
    folder = save(tmp_path, 5, toy.ToyModel(width=8))
    wide = learner(toy.ToyModel(width=9))
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"holds another learner, model toy.ToyModel, not .*config abc there, xyz here.*'model.dyn.bias' is \[8\]",
    ):
        checkpoint.load(folder, wide, "xyz")
    assert all(torch.equal(v, before[k]) for k, v in wide.state_dict().items())
    with pytest.raises(UserError, match=r"no 'model.weight' \[2, 3\].*unknown 'model.dyn.bias'"):
        checkpoint.load(folder, learner(torch.nn.Linear(3, 2)))

    class Other(toy.ToyModel):
        pass

    with pytest.raises(UserError, match="names and shapes agree"):
        checkpoint.load(folder, learner(Other()))


def test_a_full_disk_leaves_the_previous_one(tmp_path):
    """A real limit on file size: the write itself fails part-way, as on a full disk."""
    save(tmp_path, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full.*free some space.*checkpoints before it are intact"):
            save(tmp_path, 10, blob=torch.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [f.name for f in tmp_path.iterdir()] == ["00000005"]
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert checkpoint.load(found, learner())[0] == 5


def test_leftovers_of_a_killed_writer_are_swept(tmp_path):
    (tmp_path / ".00000003.77.tmp").mkdir()
    (tmp_path / ".00000003.77.tmp" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "00000010").mkdir()  # a half-deleted one
    (tmp_path / "00000010" / "trainer.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    save(tmp_path, 10)
    assert [f.name for f in tmp_path.iterdir()] == ["00000010"]
    assert checkpoint.steps(tmp_path) == [10]


def test_generators_continue(tmp_path):
    rng = torch.Generator().manual_seed(3)
    torch.rand(5, generator=rng)
    folder = checkpoint.save(tmp_path, 1, learner(), {"random": checkpoint.random_state({"a": rng})})
    want = torch.rand(5, generator=rng)
    other = torch.Generator()
    checkpoint.restore_random({"a": other, "unknown": torch.Generator()}, checkpoint.load_state(folder)["random"], 1)
    assert torch.equal(torch.rand(5, generator=other), want)


def test_a_generator_of_another_device_goes_on_with_another_stream(caplog):
    rng, begun = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    of_a_gpu = torch.zeros(16, dtype=torch.uint8)
    checkpoint.restore_random({"losses": rng}, {"losses": of_a_gpu}, 7)
    assert "'losses' were drawn on another device: they go on with another stream" in caplog.text
    drawn = torch.rand(5, generator=rng)
    assert not torch.equal(drawn, torch.rand(5, generator=begun)), "what was drawn before is not drawn again"
    again = torch.Generator().manual_seed(3)
    checkpoint.restore_random({"losses": again}, {"losses": of_a_gpu}, 7)
    assert torch.equal(torch.rand(5, generator=again), drawn)
