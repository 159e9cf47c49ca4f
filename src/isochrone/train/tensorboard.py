"""events.*: the same numbers for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.train.run import Run
from isochrone.train.sinks import scalars


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
        for name, value in scalars(values).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
