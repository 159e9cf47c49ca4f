"""What all sinks share: opening them by name, and turning values into plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from isochrone.core import registry
from isochrone.core.protocols import Sink
from isochrone.train.run import Run


def open_sinks(names: Sequence[str], run: Run, steps: int) -> list[Sink]:
    """The sinks of these names ('jsonl', 'tensorboard', 'console'), with default settings, for a run to `steps`."""
    made = []
    for name in names:
        kind = registry.get("sink", name)
        made.append(kind(kind.Config(), run, steps))
    return made


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
    found = {name: plain(value) for name, value in values.items()}
    return {name: float(v) for name, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
