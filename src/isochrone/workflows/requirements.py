"""What a training will need in memory and on disk: estimated, said and compared with the machine before it starts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from isochrone.core.errors import UserError
from isochrone.core.types import Spec
from isochrone.data.collect import noise_batch
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.training import machine
from isochrone.training.device import device_of, generator
from isochrone.workflows import factory

log = logging.getLogger(__name__)
ADAM = 4
"""Copies of the weights in memory: themselves, their gradient, and two moments of the optimiser."""
CHECKPOINT = 3
"""Copies of the weights in a checkpoint: themselves and the two moments."""
PROBE_WINDOWS, PROBE_LENGTH = 2, 12
"""The batch whose activations are counted; the real one is larger in proportion."""
BASE = 300_000_000
"""Bytes that Python, torch and its libraries take by themselves."""


@dataclass(frozen=True)
class Requirements:
    """Estimated bytes, by use."""

    weights: int  # with gradient and optimiser
    batch: int  # frames, and what the forward pass keeps for the backward
    replay: int  # on disk
    checkpoints: int  # on disk

    @property
    def memory(self) -> int:
        return BASE + self.weights + self.batch

    @property
    def disk(self) -> int:
        return self.replay + self.checkpoints

    def __str__(self) -> str:
        return (
            f"needs about {size(self.memory)} of memory (weights and optimiser {size(self.weights)}, a batch "
            f"{size(self.batch)}) and {size(self.disk)} on disk (replay {size(self.replay)}, checkpoints "
            f"{size(self.checkpoints)})"
        )


def size(count: float) -> str:
    """'1.50 GB' or '12.3 MB'."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def estimate(config: Config, spec: Spec, objective: TrainingObjective, replay: int) -> Requirements:
    """What the training of `objective` will need; `replay`: bytes of the replay on disk."""
    weights = weight_bytes(objective.learner)
    return Requirements(
        weights=ADAM * weights,
        batch=activation_bytes(config, spec, objective),
        replay=replay,
        checkpoints=(config.train.keep + 1) * CHECKPOINT * weights,  # an old one goes when a new one is complete
    )


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))


def activation_bytes(config: Config, spec: Spec, objective: TrainingObjective) -> int:
    """Bytes that a batch takes until its backward pass is done, in proportion to those of a small batch of noise."""
    train, rng = config.train, generator(0, "requirements")
    windows, length = min(train.batch, PROBE_WINDOWS), min(train.length, PROBE_LENGTH)
    batch = noise_batch(spec, windows, length, rng)
    kept = {x.untyped_storage().data_ptr() for x in objective.parameters()}  # counted as weights
    count = sum(x.numel() * x.element_size() for x in batch.obs.values())

    def pack(x: torch.Tensor) -> torch.Tensor:
        nonlocal count
        storage = x.untyped_storage()
        if storage.data_ptr() not in kept:
            kept.add(storage.data_ptr())
            count += storage.nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        total, _ = objective(batch, rng)  # holds all that was packed, so that no address is used twice
    del total
    return count * train.batch * train.length // (windows * length)


def check_weights(config: Config, spec: Spec) -> None:
    """UserError when the weights alone, with their optimiser, are too large. Takes no memory for them."""
    with torch.device("meta"):
        need = ADAM * weight_bytes(factory.make_learner(config, spec))
    check_memory(need, "the weights and the optimiser", "lower the sizes of the model", device_of(config.train))


def check(needs: Requirements, config: Config, folder: Path) -> None:
    """Say what is needed. UserError when this machine, its GPU or its disk has less."""
    log.info("%s", needs)
    device = device_of(config.train)
    parts = f"this training (weights and optimiser {size(needs.weights)}, a batch {size(needs.batch)})"
    check_memory(needs.memory, parts, "lower train.batch, train.length or the sizes of the model", device)
    free = machine.free_disk(folder)
    if free is not None and needs.disk > free:
        raise UserError(
            f"this training needs about {size(needs.disk)} at {folder} (replay {size(needs.replay)}, checkpoints "
            f"{size(needs.checkpoints)}), and {size(free)} are free: free some space, or lower data.num_envs, "
            "data.rows or train.keep"
        )


def check_memory(need: int, what: str, remedy: str, device: torch.device | None = None) -> None:
    """UserError when `need` bytes are more than the machine, or the GPU `device`, has."""
    on_gpu = device is not None and device.type == "cuda"
    have = torch.cuda.get_device_properties(device).total_memory if on_gpu else machine.memory()
    if have is not None and need > have:
        where = "GPU" if on_gpu else "machine"
        raise UserError(f"{what}: about {size(need)} of memory, more than the {size(have)} of this {where}: {remedy}")
