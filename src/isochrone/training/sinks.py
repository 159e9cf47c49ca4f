"""Sinks of metrics: opening them by name, and turning values into plain numbers.

metrics.jsonl: every number, one row per line, for programs.

events.*: the same numbers for TensorBoard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Any, ClassVar

from torch import Tensor

from isochrone.core import gate, registry
from isochrone.core.errors import UserError
from isochrone.core.files import writing
from isochrone.core.protocols import Sink
from isochrone.core.registry import register
from isochrone.training.run import Run


def open_sinks(names: Sequence[str], run: Run, steps: int) -> list[Sink]:
    """The sinks of these names ('jsonl', 'tensorboard', 'console'), with default settings, for a run to `steps`."""
    sinks = []
    for name in names:
        kind = registry.get("sink", name)
        sinks.append(kind(kind.Config(), run, steps))
    return sinks


def plain(value: Any) -> Any:
    """A tensor, array or number as float, int, text or nested lists; NaN and infinities as None (JSON has neither)."""
    if isinstance(value, Tensor) or hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """The single finite numbers among `values`; arrays and texts left out."""
    numbers = {name: plain(value) for name, value in values.items()}
    return {name: float(v) for name, v in numbers.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


@register("sink", "jsonl")
class Jsonl:
    """Appends {"step": ..., name: value} to the run's metrics.jsonl. Arrays become lists, NaN becomes null."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "jsonl"

    def __init__(self, config: Config, run: Run, steps: int = 0) -> None:
        self.path = run.metrics
        self.file: FileIO | None = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One row, handed to the system at once: a killed process loses none. UserError when the disk is full."""
        if self.file is None:  # not before: resuming first replaces the file
            gate.check_file(self.path)
            with writing(self.path):
                self.file = self.path.open("ab", buffering=0)
        row = json.dumps({"step": step, **{n: plain(v) for n, v in values.items()}}) + "\n"
        rest = memoryview(row.encode())
        with writing(self.path):
            while rest:
                rest = rest[self.file.write(rest) :]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


@register("sink", "tensorboard")
class TensorBoard:
    """Writes scalars into the run folder. After a resume, rows of steps that are computed again are hidden."""

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "tensorboard"

    def __init__(self, config: Config, run: Run, steps: int = 0) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise UserError("sink 'tensorboard' needs the package 'tensorboard': pip install tensorboard") from None
        self.make, self.folder = SummaryWriter, run.path
        self.writer: Any = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """The single numbers among `values`."""
        if self.writer is None:
            self.writer = self.make(str(self.folder), purge_step=step)
        with writing(self.folder):  # an error of the writer's thread is raised here, by the next row
            for name, value in scalars(values).items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            with writing(self.folder):
                writer.close()
