"""Memory for large arrays, used again once nothing refers to the old array any more.

A batch of 4096 frames is 50 MB. Fetching that from the operating system for every step costs more than drawing or
copying the frames does: above 32 MB the allocator hands out fresh pages, and each of them faults once.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
from numpy.typing import DTypeLike

SMALL = 1 << 20  # bytes below which the allocator is fast by itself


class Buffers:
    """Allocates arrays whose memory is used again when they are freed; at most `keep` idle blocks are kept.

    An array that is still referred to is never overwritten. A tensor made of it by `torch.from_numpy` refers to it, as
    does every view of that tensor; a numpy view of the array does not. One thread takes, any thread may free.
    """

    def __init__(self, keep: int = 4) -> None:
        self._keep = keep
        self._idle: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An uninitialised, contiguous array that shares memory with no other."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < SMALL:
            return np.empty(shape, dtype)
        fitting = [i for i, block in enumerate(self._idle) if block.size == size]
        if not fitting and len(self._idle) >= self._keep:
            del self._idle[0]  # of a size that was last asked for long ago
        block = self._idle.pop(fitting[-1]) if fitting else np.empty(size, np.uint8)
        array = block.view(dtype).reshape(shape)
        weakref.finalize(array, self._free, block).atexit = False
        return array

    def _free(self, block: np.ndarray) -> None:
        if len(self._idle) < self._keep:
            self._idle.append(block)
