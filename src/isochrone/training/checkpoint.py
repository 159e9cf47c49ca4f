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
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core import files
from isochrone.core.errors import UserError
from isochrone.training import tree
from isochrone.training.learner import Learner

log = logging.getLogger(__name__)
FORMAT = 2
FILES = ("weights.safetensors", "trainer.safetensors")


@dataclass(frozen=True)
class Manifest:
    """The manifest of a complete checkpoint."""

    folder: Path
    step: int
    parts: dict[str, str]  # the class of each part of the learner
    config_hash: str


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
    root.mkdir(parents=True, exist_ok=True)
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
    with files.report_full_disk(folder, "the checkpoints before it are intact"):
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
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Delete the temporary folders of writers that were killed."""
    for left in root.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def verify(folder: Path) -> Manifest:
    """The manifest of a complete checkpoint. UserError naming the first file that is missing or damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest.get("format") != FORMAT:
            raise UserError(
                f"{folder} was written by another version (checkpoint format {manifest.get('format')}, this version "
                f"reads {FORMAT}): use that version, or train the run again"
            )
        listed, step, parts = manifest["files"], int(manifest["step"]), dict(manifest["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a complete checkpoint: manifest.json: {error}") from None
    for name in FILES:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"{folder} is not a complete checkpoint: {name}: {error.strerror}") from None
        want = listed.get(name, {})
        if len(content) != want.get("size") or hashlib.sha256(content).hexdigest() != want.get("sha256"):
            raise UserError(f"{folder / name} is damaged: its size or sha256 is not the one in manifest.json")
    return Manifest(folder, step, parts, manifest["config_hash"])


def steps(root: Path) -> list[int]:
    """Steps that have a folder with a manifest, ascending. Cheap: contents are not verified."""
    if not root.is_dir():
        return []
    return sorted(int(f.name) for f in root.iterdir() if f.name.isdigit() and (f / "manifest.json").is_file())


def latest(root: Path) -> Path | None:
    """The newest checkpoint that is complete and undamaged, or None."""
    for step in reversed(steps(root)):
        try:
            return verify(root / f"{step:08d}").folder
        except UserError:
            continue
    return None


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

    UserError when it is damaged, or of other parts: names the classes, keys and shapes that differ.
    """
    from safetensors.torch import load_file

    manifest = verify(folder)
    have, want = load_file(folder / FILES[0]), learner.state_dict()
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
    learner.load_state_dict(have)
    return manifest.step


def _bare(parts: Mapping[str, str]) -> dict[str, str]:
    """Class names without their modules, which may move."""
    return {name: where.rpartition(".")[2] for name, where in parts.items()}


def _listed(parts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {where}" for name, where in parts.items())


def load_state(folder: Path) -> dict[str, Any]:
    """The nest of tensors (on the CPU) and plain values that `save` got as `state`."""
    from safetensors import safe_open

    tensors: dict[str, Tensor] = {}
    with safe_open(folder / FILES[1], framework="pt") as stored:
        plain = json.loads((stored.metadata() or {}).get("plain", "{}"))
        for name in stored.keys():  # noqa: SIM118 - not a dict
            tensors[name] = stored.get_tensor(name)
    return tree.unpack(tensors, plain)


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
