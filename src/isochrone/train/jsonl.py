"""metrics.jsonl: every number, one row per line, the machine's truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any, ClassVar

from isochrone.core.files import told_when_full
from isochrone.core.registry import register
from isochrone.train.run import Run
from isochrone.train.sinks import plain


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
            self.file = self.path.open("ab", buffering=0)
        row = json.dumps({"step": step, **{n: plain(v) for n, v in values.items()}}) + "\n"
        rest = memoryview(row.encode())
        with told_when_full(self.path):
            while rest:
                rest = rest[self.file.write(rest) :]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
