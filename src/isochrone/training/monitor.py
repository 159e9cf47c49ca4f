"""Watching a training: means of metrics and fractions of time between two reports, and the check for divergence.

On the CPU a step is checked before its update, so the weights are still those of the last good step. On a GPU the two
scalars are copied asynchronously and checked up to LAG steps later, together with the batch that gave them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Batch


class Meter:
    """Collects scalar tensors without reading them; `means` reads all of them at once."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the scalars () of one step. Does not wait for a GPU."""
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(stop_gradient(value, "a number to report"))

    def means(self) -> dict[str, float]:
        """The mean of each metric since the last call, over the steps that had it. Waits for a GPU once."""
        if not self.values:
            return {}
        means = [torch.stack(vs).double().mean() for vs in self.values.values()]
        numbers = torch.stack([mean.to(means[0].device) for mean in means]).tolist()  # (names,)
        named = dict(zip(self.values, numbers, strict=True))
        self.values = {}
        return named

    def state(self) -> dict[str, Any]:
        """{'names': [...], 'values': {'0': (k,)}}: metric names may contain '/', so they are numbered."""
        rows = {str(i): torch.stack(vs) for i, vs in enumerate(self.values.values())}
        return {"names": list(self.values), "values": rows}

    def restore(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Continue from `state`."""
        rows = state.get("values", {})
        self.values = {name: list(rows[str(i)].to(device)) for i, name in enumerate(state["names"])}


class Stopwatch:
    """Fractions of wall time per kind of work since the last reading. The clock is an argument."""

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
        """(seconds since the last reading, {kind: fraction of them}); starts again from zero."""
        now = self.clock()
        wall = max(now - self.start, 1e-9)
        shares = {kind: seconds / wall for kind, seconds in self.spent.items()}
        self.start, self.spent = now, {}
        return wall, shares


WINDOW = 100  # steps in the running median
SETTLE = 20  # steps before the check begins: the first losses may be of any size
MIN_MEDIAN = 1e-3  # lower bound of the median: near zero, a loss may rise by a large factor without diverging
LAG = 8  # largest number of steps whose numbers may be on their way from a GPU


class Diverged(Exception):
    """A step whose loss or gradient is not finite, or whose loss is far above its median."""

    def __init__(self, step: int, why: str, batch: Batch) -> None:
        super().__init__(why)
        self.step, self.why, self.batch = step, why, batch


@dataclass(frozen=True)
class _Pending:
    step: int
    batch: Batch
    pair: Tensor  # (2,) loss and gradient norm, on the CPU
    metrics: Mapping[str, Tensor]
    ready: torch.cuda.Event | None


class Guard:
    """Raises `Diverged` for a loss or gradient that is not finite, or |loss| > factor x its running median."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.pending: deque[_Pending] = deque()

    def watch(self, step: int, batch: Batch, loss: Tensor, norm: Tensor, metrics: Mapping[str, Tensor]) -> None:
        """Check the loss () and gradient norm () of a step: on the CPU now, from a GPU when they have been copied."""
        pair = torch.stack([loss.float(), norm.float()])
        if pair.device.type != "cuda":
            self._check(_Pending(step, batch, pair, metrics, None))
            return
        copied = torch.empty(2, pin_memory=True)
        copied.copy_(pair, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        self.pending.append(_Pending(step, batch, copied, metrics, ready))
        while self.pending and (self._arrived(self.pending[0]) or len(self.pending) > LAG):
            self._settle()

    def restart(self) -> None:
        """Start a new running median, because the sum of active losses changes."""
        self.drain()
        self.recent.clear()

    def drain(self) -> None:
        """Check every step that is still pending. Call before weights are saved."""
        while self.pending:
            self._settle()

    @staticmethod
    def _arrived(item: _Pending) -> bool:
        return item.ready is None or item.ready.query()

    def _settle(self) -> None:
        item = self.pending.popleft()
        if item.ready is not None:
            item.ready.synchronize()
        self._check(item)

    def _check(self, item: _Pending) -> None:
        loss, norm = item.pair.tolist()
        if not math.isfinite(loss):
            raise Diverged(item.step, _blame(item.metrics, loss), item.batch)
        median = max(statistics.median(self.recent), MIN_MEDIAN) if len(self.recent) >= SETTLE else math.inf
        if abs(loss) > self.factor * median:
            why = f"the loss is {loss:.3g}, {abs(loss) / median:.0f} times its running median {median:.3g}"
            raise Diverged(item.step, why + _largest(item.metrics), item.batch)
        if not math.isfinite(norm):
            raise Diverged(item.step, f"the loss is {loss:.3g} but its gradient is {_word(norm)}", item.batch)
        self.recent.append(abs(loss))

    def state(self) -> dict[str, Any]:
        """The losses in the running median."""
        return {"recent": torch.tensor(list(self.recent), dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        self.recent = deque(state["recent"].tolist(), maxlen=WINDOW)


def _word(value: float) -> str:
    return "not a number" if math.isnan(value) else "infinite"


def _blame(metrics: Mapping[str, Tensor], loss: float) -> str:
    bad = {n: float(v) for n, v in metrics.items() if v.numel() == 1 and not math.isfinite(float(v))}
    parts = [f"'{n.removeprefix('loss/')}' is {_word(v)}" for n, v in bad.items() if n != "loss"]
    return f"loss {', '.join(parts)}" if parts else f"the sum of losses is {_word(loss)}, though each is finite"


def _largest(metrics: Mapping[str, Tensor]) -> str:
    sizes = {n: abs(float(v)) for n, v in metrics.items() if n != "loss" and v.numel() == 1}
    if not sizes:
        return ""
    name = max(sizes, key=sizes.__getitem__)
    return f" (largest: '{name.removeprefix('loss/')}' = {float(metrics[name]):.3g})"
