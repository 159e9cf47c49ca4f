"""Memory for frames, used again once nothing refers to the old frames any more.

A batch of 4096 frames is 50 MB. Fetching that from the operating system for every step costs more than drawing does, so
freed batches are used for the next one. A tensor that is still referred to (or a view of it) is never overwritten: its
memory is used again only when its storage is freed.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import Tensor

KEEP = 2  # idle buffers per pool; enough for a caller that refers to one row while the next is drawn
SMALL = 1 << 20  # bytes below which the allocator is fast by itself


class Pool:
    """Allocates uninitialised uint8 tensors on the CPU."""

    def __init__(self) -> None:
        self._idle: list[np.ndarray] = []

    def take(self, *shape: int) -> Tensor:
        """A contiguous tensor of this shape that shares memory with no other."""
        size = math.prod(shape)
        if size < SMALL:
            return torch.empty(shape, dtype=torch.uint8)
        fitting = [buffer for buffer in self._idle if buffer.size == size]
        self._idle = fitting[:-1]  # buffers of another size are freed: the batch size rarely changes
        buffer = fitting[-1] if fitting else np.empty(size, np.uint8)
        view = buffer.view()  # referred to by the tensor's storage only, so it is freed together with it
        weakref.finalize(view, self._return, buffer).atexit = False
        return torch.from_numpy(view).view(shape)

    def _return(self, buffer: np.ndarray) -> None:
        if len(self._idle) < KEEP:
            self._idle.append(buffer)
