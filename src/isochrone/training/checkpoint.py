"""Checkpoints: a folder per step that is complete or does not count. Nothing is pickled.

checkpoints/STEP/weights.safetensors   the learner's state dict: "model.…", and "PART.…" of its other parts
                 trainer.safetensors   everything else as named tensors; its metadata holds the plain values as JSON
                 manifest.json         step, classes of the parts, config hash, size and sha256 of each file; last
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor, nn

from isochrone.core import files, gate
from isochrone.core.errors import UserError
from isochrone.training import tree
from isochrone.training.learner import Learner

log = logging.getLogger(__name__)
FORMAT = 2
NAME = "[0-9]{8}|[1-9][0-9]{8,17}"
"""What the folder of a checkpoint is called: its step."""
FILES = ("weights.safetensors", "trainer.safetensors")


class FileSum(gate.Strict):
    """Size and sha256 of a file, in a manifest."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(gate.Strict):
    """manifest.json of a checkpoint."""

    format: int
    step: Annotated[int, msgspec.Meta(ge=0)]
    parts: dict[str, str]  # the class of each part of the learner
    config_hash: str
    files: dict[str, FileSum]


class AnyFormat(msgspec.Struct):
    """What the manifest of every version has."""

    format: int


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint that is complete and undamaged (None: there is none), and what is wrong with newer ones."""

    folder: Path | None
    damaged: tuple[str, ...]  # '00005400 (weights.safetensors: ...)', newest first

    def warn(self) -> None:
        """Say which checkpoints are passed over, and which step is used instead."""
        if self.folder is not None:
            for one in self.damaged:
                log.warning("checkpoint %s is damaged: step %d is used", one, int(self.folder.name))


class DamagedCheckpoint(UserError):
    """A checkpoint that does not count; `why` names the file and the fault."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"checkpoint {folder} is damaged ({why})")
        self.why = why


def class_name(module: nn.Module) -> str:
    """'package.module.Class' of a module."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that change with any value of a JSON-ready config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The safetensors file of named tensors, copied to the CPU; tied tensors are written out each."""
    from safetensors.torch import save

    copies = {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return save(copies, metadata)


def save(root: Path, step: int, learner: Learner, state: tree.Tree, keep: int = 2, config: str = "") -> Path:
    """Write `root/STEP`, whole or not at all, then drop all but the newest `keep`. Returns the folder.

    `state` is a nest of dicts of tensors and JSON values; `config` the hash of the run's config.
    UserError when the disk is full: the older checkpoints are then as they were.
    """
    with files.writing(root):
        gate.check_folder(root).mkdir(parents=True, exist_ok=True)
    folder, aside = root / f"{step:08d}", root / f".{step:08d}.{os.getpid()}.tmp"
    tensors, plain = tree.pack(state)
    contents = {
        FILES[0]: tensor_bytes(learner.state_dict()),
        FILES[1]: tensor_bytes(tensors, {"plain": json.dumps(plain)}),
    }
    manifest = {
        "format": FORMAT,
        "step": step,
        "parts": {name: class_name(part) for name, part in learner.parts.items()},
        "config_hash": config,
        "files": {n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()},
    }
    contents["manifest.json"] = json.dumps(manifest, indent=1).encode()
    _sweep(root)
    with files.writing(folder, "the checkpoints before it are intact"):
        try:
            aside.mkdir()
            for name, content in contents.items():
                files.write_synced(aside / name, content)
            files.sync_folder(aside)
            if folder.exists():  # left by a run that was killed, or broken: what was just computed replaces it
                _remove(folder)
            os.rename(aside, folder)
            files.sync_folder(root)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    for old in [s for s in steps(root) if s < step][: -(keep - 1) or None]:
        _remove(root / f"{old:08d}")
    return folder


def _remove(folder: Path) -> None:
    """Delete a checkpoint; its manifest first, so that a half-deleted one no longer counts."""
    if folder.is_symlink():
        folder.unlink()
        return
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Delete the temporary folders of writers that were killed."""
    for left in root.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def verify(folder: Path) -> Manifest:
    """The manifest of a complete checkpoint. DamagedCheckpoint names the first file that is missing or damaged."""
    manifest = read_manifest(folder)
    for name in FILES:
        _check_sum(folder, name, manifest)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, whose files are not verified. DamagedCheckpoint, also for another version's."""
    try:
        data = gate.read_bytes(gate.check_folder(folder) / "manifest.json")
        version = gate.decode(data, AnyFormat, "manifest.json").format
        if version != FORMAT:
            raise DamagedCheckpoint(
                folder, f"it was written by another version: format {version}, this version reads {FORMAT}"
            )
        manifest = gate.decode(data, Manifest, "manifest.json")
    except DamagedCheckpoint:
        raise
    except UserError as error:
        raise DamagedCheckpoint(folder, str(error).replace(f"{folder}{os.sep}", "")) from None
    if folder.name.isdecimal() and int(folder.name) != manifest.step:
        raise DamagedCheckpoint(folder, f"manifest.json: it is of step {manifest.step}")
    if set(manifest.files) != set(FILES):
        raise DamagedCheckpoint(folder, f"manifest.json: it lists {', '.join(manifest.files) or 'no file'}")
    return manifest


def _check_sum(folder: Path, name: str, manifest: Manifest) -> None:
    """DamagedCheckpoint where size or sha256 of a file differ from the manifest's."""
    want, digest, size = manifest.files[name], hashlib.sha256(), 0
    try:
        with gate.opened(folder / name) as file:
            while size <= want.size and (chunk := file.read(2**20)):
                digest.update(chunk)
                size += len(chunk)
    except UserError as error:
        raise DamagedCheckpoint(folder, str(error).replace(f"{folder}{os.sep}", "")) from None
    if size != want.size:
        has = f"more than {want.size}" if size > want.size else str(size)
        raise DamagedCheckpoint(folder, f"{name}: it has {has} bytes, manifest.json says {want.size}")
    if digest.hexdigest() != want.sha256:
        raise DamagedCheckpoint(folder, f"{name}: its sha256 is not the one in manifest.json")


def folders(root: Path) -> list[int]:
    """The steps of every folder in `root` that is called like a checkpoint, ascending, complete or not."""
    if not gate.exists(root):
        return []
    try:
        return sorted(int(f.name) for f in gate.check_folder(root).iterdir() if re.fullmatch(NAME, f.name))
    except OSError as error:
        raise UserError(f"{root} cannot be read: {gate.reason(error)}") from None


def steps(root: Path) -> list[int]:
    """Steps that have a folder with a manifest, ascending. Cheap: contents are not verified."""
    return [step for step in folders(root) if (root / f"{step:08d}" / "manifest.json").is_file()]


def newest(root: Path) -> Newest:
    """The newest checkpoint in `root` that is complete and undamaged, and what is wrong with the newer ones."""
    damaged: list[str] = []
    for step in reversed(folders(root)):
        folder = root / f"{step:08d}"
        try:
            verify(folder)
        except DamagedCheckpoint as error:
            damaged.append(f"{folder.name} ({error.why})")
        else:
            return Newest(folder, tuple(damaged))
    return Newest(None, tuple(damaged))


def latest(root: Path) -> Path | None:
    """The newest checkpoint that is complete and undamaged, or None."""
    return newest(root).folder


def _differences(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> list[str]:
    missing = [f"no '{k}' {list(want[k].shape)}" for k in sorted(want.keys() - have.keys())]
    unknown = [f"unknown '{k}' {list(have[k].shape)}" for k in sorted(have.keys() - want.keys())]
    shape = [
        f"'{k}' is {list(have[k].shape)} {have[k].dtype} there, {list(want[k].shape)} {want[k].dtype} here"
        for k in sorted(have.keys() & want.keys())
        if have[k].shape != want[k].shape or have[k].dtype != want[k].dtype
    ]
    return shape + missing + unknown


def load_weights(folder: Path, learner: Learner, config: str = "") -> int:
    """Put the weights of a checkpoint into `learner`; returns its step.

    UserError when it is damaged, not finite, or of other parts: names the classes, keys and shapes that differ.
    """
    manifest = read_manifest(folder)
    _check_sum(folder, FILES[0], manifest)
    have, want = _read_tensors(folder, FILES[0])[0], learner.state_dict()
    wrong = _differences(have, want)
    here = {name: class_name(part) for name, part in learner.parts.items()}
    if wrong or _bare(manifest.parts) != _bare(here):
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        changed = (
            f" (config {manifest.config_hash} there, {config} here)"
            if config and config != manifest.config_hash
            else ""
        )
        raise UserError(
            f"{folder} holds another learner, {_listed(manifest.parts)}, not this {_listed(here)}{changed}: "
            f"{'; '.join(wrong[:4]) or 'names and shapes agree'}{more}; use the config that it was trained with"
        )
    check_finite(have, folder / FILES[0])
    learner.load_state_dict(have)
    return manifest.step


def check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """UserError where a tensor of a checkpoint is not finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{where} cannot be used: '{name}' is not finite, so the training had diverged there")


def _read_tensors(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file. UserError where it is none, although it is as the manifest says."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(folder / name, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - not a dict
                tensors[key] = stored.get_tensor(key)
            return tensors, stored.metadata() or {}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{folder / name} holds no tensors that can be read: {error}") from None


def _bare(parts: Mapping[str, str]) -> dict[str, str]:
    """Class names without their modules, which may move."""
    return {name: where.rpartition(".")[2] for name, where in parts.items()}


def _listed(parts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {where}" for name, where in parts.items())


def load_state(folder: Path) -> dict[str, Any]:
    """The nest of tensors (on the CPU) and plain values that `save` got as `state`. UserError: damaged."""
    _check_sum(folder, FILES[1], read_manifest(folder))
    tensors, metadata = _read_tensors(folder, FILES[1])
    where = f"{folder / FILES[1]}: its part 'plain'"
    plain = gate.decode(metadata.get("plain", "{}").encode(), dict[str, Any], where)
    try:
        return tree.unpack(tensors, plain)
    except (AttributeError, TypeError) as error:
        raise UserError(f"{folder / FILES[1]} does not hold a state: {error}") from None


def load(folder: Path, learner: Learner, config: str = "") -> tuple[int, dict[str, Any]]:
    """(step, state) of a checkpoint, its weights put into `learner`. UserError as `load_weights`."""
    step = load_weights(folder, learner, config)
    return step, load_state(folder)


def random_state(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """The state of each generator as a uint8 tensor."""
    return {name: rng.get_state() for name, rng in generators.items()}


def restore_random(generators: Mapping[str, torch.Generator], state: Mapping[str, Tensor], step: int) -> None:
    """Set each generator to its stored state; one that was not stored stays as it is.

    The state of another type of device (a GPU's has 16 bytes, a CPU's 5056) cannot be used: that generator goes on
    with a stream of its own, which depends on its seed and on `step`, so that nothing drawn before is drawn again.
    """
    for name, rng in generators.items():
        if name not in state:
            continue
        if state[name].shape == rng.get_state().shape:
            rng.set_state(state[name])
        else:
            log.warning("random numbers of '%s' were drawn on another device: they go on with another stream", name)
            digest = hashlib.sha256(f"{rng.initial_seed()}/{step}".encode()).digest()
            rng.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
