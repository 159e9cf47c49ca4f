"""Where a run computes: device, precision, threads, and one generator per use of randomness.

What belongs to the whole process is put back afterwards: isochrone may be a guest in somebody's program.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


@contextmanager
def compute_settings(config: TrainConfig) -> Iterator[None]:
    """Torch's thread count as configured, and the same bits every time; these and warning filters as before at the end.

    One thread per process is the default: latent-size work gains nothing from more, and two runs then fit two cores.
    With several, the backward of indexing on a CPU adds in an order that changes from run to run, unless torch is told
    to be deterministic; one thread needs no such order and is not slowed. UserError as `device_of`.
    """
    device, deterministic = device_of(config), cast(Any, torch.utils.deterministic)
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    only_warns, fills = torch.is_deterministic_algorithms_warn_only_enabled(), deterministic.fill_uninitialized_memory
    torch.set_num_threads(config.threads)
    if config.threads > 1 and device.type == "cpu" and not strict:
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = False  # it only serves to find bugs, and costs time
    try:
        with warnings.catch_warnings():  # packages that are imported on the way add filters
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=only_warns)
        deterministic.fill_uninitialized_memory = fills


def launch(config: TrainConfig) -> Fabric:
    """A Fabric on one device (CPU or GPU), in the configured precision."""
    device = device_of(config)
    environment = set(os.environ)
    from lightning_fabric import Fabric  # 1.4 s to import: imported only for training

    devices = [device.index] if device.type == "cuda" else 1
    its_log = logging.getLogger("lightning_fabric")
    level = its_log.level
    its_log.setLevel(logging.WARNING)  # it announces AMP on every start
    try:
        fabric = Fabric(accelerator=device.type, devices=devices, precision=config.precision)
        fabric.launch()
    finally:
        its_log.setLevel(level)
        for name in set(os.environ) - environment:  # importing it sets variables
            del os.environ[name]
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


class DrawFrom(TorchDispatchMode):
    """Within this context torch's random operations that name no generator draw from `rng`, in this thread only.

    Initialisers of modules know nothing but torch's global generator, which belongs to the whole process: seeding it
    would change the numbers of every other thread, and theirs would change the weights.
    """

    def __init__(self, rng: torch.Generator) -> None:
        super().__init__()
        self.rng = rng

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        device = kwargs.get("device") or (tensors[0].device if tensors else self.rng.device)
        if torch.device(device).type != self.rng.device.type:
            return func(*args, **kwargs)
        if not _takes_generator(func) and "generator" in func.overloadpacket.overloads():  # torch.randn and its like
            func = func.overloadpacket.generator
        if _takes_generator(func) and kwargs.get("generator") is None:
            kwargs["generator"] = self.rng
        return func(*args, **kwargs)


def _takes_generator(func: Any) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)
