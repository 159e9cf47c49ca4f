"""How much of a world the recording has seen, from its frames alone: no ground truth is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from isochrone.core.errors import UserError
from isochrone.data.replay import Replay


@dataclass(frozen=True)
class Coverage:
    """Visits per distinct frame, and where in the picture things were."""

    counts: Int64[np.ndarray, "D"]  # visits of each distinct frame, most visited first
    cells: Int64[np.ndarray, "G G"]  # frames whose foreground is centred in this cell of the picture (row, column)
    frames: int  # frames looked at
    blank: int  # frames that equal the background: no foreground, in no cell

    def numbers(self) -> dict[str, float]:
        """Distinct frames, their effective number (exp of the entropy), share seen once, share of cells visited."""
        share = self.counts / self.counts.sum()  # (D)
        return {
            "coverage/frames": float(self.frames),
            "coverage/distinct": float(len(self.counts)),
            "coverage/effective": float(np.exp(-(share * np.log(share)).sum())),
            "coverage/once": float((self.counts == 1).mean()),
            "coverage/cells": float((self.cells > 0).mean()),
        }


def visits(images: UInt8[np.ndarray, "N C Y X"]) -> dict[bytes, int]:
    """How often each distinct frame occurs, by the hash of its bytes."""
    found: dict[bytes, int] = {}
    for image in np.ascontiguousarray(images):
        key = hashlib.blake2b(image.data, digest_size=16).digest()
        found[key] = found.get(key, 0) + 1
    return found


def background(images: UInt8[np.ndarray, "N C Y X"]) -> UInt8[np.ndarray, "C Y X"]:
    """The median frame: what stays when the moving things leave their place more often than not."""
    return np.median(images, axis=0).astype(np.uint8)


def centres(
    images: UInt8[np.ndarray, "N C Y X"], ground: UInt8[np.ndarray, "C Y X"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
    """(y, x) in [0, 1) of the centre of mass of what differs from `ground`, and that mass (0: nothing does)."""
    differs = np.abs(images.astype(np.float32) - ground).sum(1)  # (N, Y, X)
    mass = differs.sum((1, 2))  # (N)
    safe = np.maximum(mass, 1e-9)
    y = (differs.sum(2) @ ((np.arange(differs.shape[1]) + 0.5) / differs.shape[1])) / safe  # (N)
    x = (differs.sum(1) @ ((np.arange(differs.shape[2]) + 0.5) / differs.shape[2])) / safe  # (N)
    return np.stack([y, x], -1), mass


def coverage(chunks: Iterable[np.ndarray], cells: int = 16) -> Coverage:
    """Coverage of a stream of frames, chunks of uint8 (N, C, Y, X) of any N each.

    The background is the median of the first chunk (of at most 512 of its frames).
    """
    seen: dict[bytes, int] = {}
    grid = np.zeros((cells, cells), np.int64)
    ground: np.ndarray | None = None
    frames = blank = 0
    for images in chunks:
        if ground is None:
            ground = background(images[:: max(len(images) // 512, 1)][:512])
        for key, count in visits(images).items():
            seen[key] = seen.get(key, 0) + count
        centre, mass = centres(images, ground)
        place = np.minimum((centre[mass > 0] * cells).astype(np.int64), cells - 1)  # (n, 2)
        np.add.at(grid, (place[:, 0], place[:, 1]), 1)
        frames, blank = frames + len(images), blank + int((mass == 0).sum())
    if not frames:
        raise UserError("coverage: there are no frames yet; collect some steps first")
    return Coverage(np.sort(np.fromiter(seen.values(), np.int64))[::-1].copy(), grid, frames, blank)


def replay_coverage(replay: Replay, most: int = 20_000, cells: int = 16) -> Coverage:
    """Coverage of the stored frames, every k-th row so that at most about `most` are read."""
    _ = replay.spec.image
    stride = max(-(-len(replay) // most), 1)
    return coverage(_frames(replay, stride), cells)


def _frames(replay: Replay, stride: int, chunk: int = 512) -> Iterable[np.ndarray]:
    """Rows from all lanes side by side, so that already the first chunk mixes lanes and times."""
    stored = replay.stored()
    lane = np.repeat(np.arange(replay.lanes), stored)  # (N)
    start = np.concatenate([np.arange(n) for n in stored]) if len(lane) else lane  # (N)
    order = np.argsort(_spread(len(lane)))[: max(len(lane) // stride, 1)] if len(lane) else lane
    for i in range(0, len(order), chunk):
        some = order[i : i + chunk]
        yield replay.take(lane[some].tolist(), start[some].tolist(), 1).obs["image"][:, 0].numpy()


def _spread(count: int) -> Float[np.ndarray, "N"]:
    """A fixed shuffle without a generator: multiples of the golden ratio, modulo one."""
    return (np.arange(count) * 0.6180339887498949) % 1.0
