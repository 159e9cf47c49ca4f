"""Memory for frames, used again once nobody holds the old frames any more.

A batch of 4096 frames is 50 MB. Fetching that from the operating system for every step costs more than drawing does, so
dropped batches are kept for the next one. A tensor that anybody still holds (or a view of it) is never written on: its
memory comes back only when its storage is freed.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import Tensor

KEEP = 2  # idle buffers per pool; one more than a caller needs who holds one row while the next is drawn
SMALL = 1 << 20  # bytes below which the allocator is fast by itself


class Pool:
    """Gives out uninitialised uint8 tensors on the CPU."""

    def __init__(self) -> None:
        self._idle: list[np.ndarray] = []

    def take(self, *shape: int) -> Tensor:
        """A contiguous tensor of this shape that nobody else sees."""
        size = math.prod(shape)
        if size < SMALL:
            return torch.empty(shape, dtype=torch.uint8)
        fitting = [buffer for buffer in self._idle if buffer.size == size]
        self._idle = fitting[:-1]  # buffers of another size are let go: batches rarely change theirs
        buffer = fitting[-1] if fitting else np.empty(size, np.uint8)
        loan = buffer.view()  # the tensor's storage holds this view, and only it: its end is the end of the loan
        weakref.finalize(loan, self._back, buffer).atexit = False
        return torch.from_numpy(loan).view(shape)

    def _back(self, buffer: np.ndarray) -> None:
        if len(self._idle) < KEEP:
            self._idle.append(buffer)
