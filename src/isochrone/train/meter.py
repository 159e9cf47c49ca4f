"""Numbers gathered between two clock ticks: means of metrics, and shares of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from isochrone.core.route import stop


class Meter:
    """Keeps scalar tensors where they are; reads them, all at once, only when asked for their means."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take in the scalars () of one step. No device is waited for."""
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(stop(value, "a number to report"))

    def means(self) -> dict[str, float]:
        """The mean of each metric since the last call, over the steps that had it. Waits for the device once."""
        if not self.values:
            return {}
        means = [torch.stack(vs).double().mean() for vs in self.values.values()]
        told = torch.stack([mean.to(means[0].device) for mean in means])  # (names,)
        found = dict(zip(self.values, told.tolist(), strict=True))
        self.values = {}
        return found

    def state(self) -> dict[str, Any]:
        """{'names': [...], 'values': {'0': (k,)}}: metric names may hold a '/', so they are numbered."""
        rows = {str(i): torch.stack(vs) for i, vs in enumerate(self.values.values())}
        return {"names": list(self.values), "values": rows}

    def restore(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Continue from `state`."""
        rows = state.get("values", {})
        self.values = {name: list(rows[str(i)].to(device)) for i, name in enumerate(state["names"])}


class Stopwatch:
    """Shares of wall time per kind of work since the last reading. The clock is an argument."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.start = clock()
        self.spent: dict[str, float] = {}

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Time a block as `kind`."""
        began = self.clock()
        try:
            yield
        finally:
            self.spent[kind] = self.spent.get(kind, 0.0) + self.clock() - began

    def read(self) -> tuple[float, dict[str, float]]:
        """(seconds since the last reading, {kind: share of them}); starts anew."""
        now = self.clock()
        wall = max(now - self.start, 1e-9)
        shares = {kind: seconds / wall for kind, seconds in self.spent.items()}
        self.start, self.spent = now, {}
        return wall, shares
