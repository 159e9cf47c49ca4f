"""Numbers gathered between two clock ticks: means of metrics, and shares of time.

Watches loss and gradient of every step, and stops the run before nonsense is learned.

On the CPU a step is judged before its update, so the weights at hand are still good. On a GPU the host must not wait:
the two numbers travel by themselves and are judged a few steps later, together with the batch that made them.
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
    """Keeps scalar tensors where they are; reads them, all at once, only when asked for their means."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take in the scalars () of one step. No device is waited for."""
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(stop_gradient(value, "a number to report"))

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


WINDOW = 100  # steps behind the running median
SETTLE = 20  # steps before a loss can be called exploding: the first ones may be anything
FLOOR = 1e-3  # a median below this counts as this: a loss near zero may jump by a large factor and mean nothing
LAG = 8  # most steps that a GPU's numbers may be behind


class Diverged(Exception):
    """A step whose loss or gradient makes no sense."""

    def __init__(self, step: int, why: str, batch: Batch) -> None:
        super().__init__(why)
        self.step, self.why, self.batch = step, why, batch


@dataclass(frozen=True)
class _Watched:
    step: int
    batch: Batch
    pair: Tensor  # (2,) loss and gradient norm, on the CPU
    metrics: Mapping[str, Tensor]
    ready: torch.cuda.Event | None


class Guard:
    """Raises `Diverged` for a loss or gradient that is not finite, or |loss| > explode x its running median."""

    def __init__(self, explode: float) -> None:
        self.explode = explode
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.waiting: deque[_Watched] = deque()

    def watch(self, step: int, batch: Batch, loss: Tensor, norm: Tensor, metrics: Mapping[str, Tensor]) -> None:
        """Judge step `step` from its loss () and gradient norm (): at once on the CPU, when they arrive from a GPU."""
        pair = torch.stack([loss.float(), norm.float()])
        if pair.device.type != "cuda":
            self._judge(_Watched(step, batch, pair, metrics, None))
            return
        held = torch.empty(2, pin_memory=True)
        held.copy_(pair, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        self.waiting.append(_Watched(step, batch, held, metrics, ready))
        while self.waiting and (self._arrived(self.waiting[0]) or len(self.waiting) > LAG):
            self._settle()

    def restart(self) -> None:
        """Forget the running median: the loss is about to become another sum."""
        self.drain()
        self.recent.clear()

    def drain(self) -> None:
        """Judge everything that is still under way. Call before weights are saved."""
        while self.waiting:
            self._settle()

    @staticmethod
    def _arrived(item: _Watched) -> bool:
        return item.ready is None or item.ready.query()

    def _settle(self) -> None:
        item = self.waiting.popleft()
        if item.ready is not None:
            item.ready.synchronize()
        self._judge(item)

    def _judge(self, item: _Watched) -> None:
        loss, norm = item.pair.tolist()
        if not math.isfinite(loss):
            raise Diverged(item.step, _blame(item.metrics, loss), item.batch)
        median = max(statistics.median(self.recent), FLOOR) if len(self.recent) >= SETTLE else math.inf
        if abs(loss) > self.explode * median:
            why = f"the loss is {loss:.3g}, {abs(loss) / median:.0f} times its running median {median:.3g}"
            raise Diverged(item.step, why + _largest(item.metrics), item.batch)
        if not math.isfinite(norm):
            raise Diverged(item.step, f"the loss is {loss:.3g} but its gradient is {_word(norm)}", item.batch)
        self.recent.append(abs(loss))

    def state(self) -> dict[str, Any]:
        """The losses behind the running median."""
        return {"recent": torch.tensor(list(self.recent), dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        self.recent = deque(state["recent"].tolist(), maxlen=WINDOW)


def _word(value: float) -> str:
    return "not a number" if math.isnan(value) else "infinite"


def _blame(metrics: Mapping[str, Tensor], loss: float) -> str:
    bad = {n: float(v) for n, v in metrics.items() if v.numel() == 1 and not math.isfinite(float(v))}
    terms = [f"'{n.removeprefix('loss/')}' is {_word(v)}" for n, v in bad.items() if n != "loss"]
    return f"term {', '.join(terms)}" if terms else f"the loss is {_word(loss)}, though every term is finite"


def _largest(metrics: Mapping[str, Tensor]) -> str:
    sizes = {n: abs(float(v)) for n, v in metrics.items() if n != "loss" and v.numel() == 1}
    if not sizes:
        return ""
    name = max(sizes, key=sizes.__getitem__)
    return f" (largest term: '{name.removeprefix('loss/')}' = {float(metrics[name]):.3g})"
