"""Where a run computes: device, precision, threads, and one generator per use of randomness."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import torch

from isochrone.core.errors import UserError
from isochrone.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def device_of(config: TrainConfig) -> torch.device:
    """The device that `config` asks for. UserError when it is not there."""
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "train.accelerator = 'cuda': torch sees no GPU here; use --train.accelerator cpu, or install a CUDA build "
            "of torch"
        )
    if config.device >= torch.cuda.device_count():
        raise UserError(
            f"train.device = {config.device}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0"
        )
    return torch.device("cuda", config.device)


def launch(config: TrainConfig) -> Fabric:
    """A Fabric on one device (CPU or GPU), in the configured precision. Sets torch's thread count.

    One thread per process is the default: latent-size work gains nothing from more, and two runs then fit two cores.
    """
    from lightning_fabric import Fabric  # 1.4 s to import: imported only for training

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces AMP on every start
    torch.set_num_threads(config.threads)
    device = device_of(config)
    devices = [device.index] if device.type == "cuda" else 1
    fabric = Fabric(accelerator=device.type, devices=devices, precision=config.precision)
    fabric.launch()
    return fabric


STREAMS = {
    "losses": "term",
    "collect while training": "refresh",
    "calibrate": "prime",
    "holdout": "held out",
    "holdout losses": "held out terms",
    "holdout evaluation": "blind",
    "multimodality": "forks",
    "return": "returns",
}
"""The text that stands for a use in the seed of its stream, where it is not the name of the use itself. These texts are
data: with another text the same seed draws other numbers, and no published result could be repeated."""


def generator(seed: int, use: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A separate random generator for each use ('sample', 'losses', ...) of one run seed."""
    digest = hashlib.sha256(f"{seed}/{STREAMS.get(use, use)}".encode()).digest()
    rng = torch.Generator(device=device)
    rng.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return rng
