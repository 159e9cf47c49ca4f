"""Window sampling: ours against indexing a plain memory-mapped array, in the same run. Prints JSON.

    python bench/windows.py [--rows 4096] [--num_envs 8] [--length 16] [--seconds 2]

The target is 20 000 windows per second of 16 frames of 64 x 64 x 3 in one process on one thread. The pages are in
memory (they were just written), so this measures copying, not the disk. Rounds alternate, so that load on the machine
slows both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from isochrone.core.types import ActionSpec, Spec, Step
from isochrone.data.replay import ReplayBuffer

TARGET = 20_000


def fill(replay: ReplayBuffer, rng: torch.Generator) -> float:
    """Write every row with noise; returns rows per second."""
    num_envs, spec = replay.num_envs, replay.spec
    images = torch.randint(256, (16, num_envs, *spec.image), generator=rng, dtype=torch.uint8)
    zero, no = torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.bool)
    action = spec.action.sample((num_envs,), rng)
    begin = time.perf_counter()
    for t in range(replay.capacity):
        end = torch.full((num_envs,), t % 100 == 99)
        replay.add(Step({"image": images[t % 16]}, zero, torch.full((num_envs,), t % 100 == 0), end, no), action)
    return len(replay) / (time.perf_counter() - begin)


def rate(draw: Callable[[], object], batch: int, seconds: float) -> float:
    """Windows per second of `draw`, which draws `batch` of them."""
    done, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        draw()
        done += batch
    return done / spent


def compare(replay: ReplayBuffer, plain: np.ndarray, batch: int, length: int, seconds: float) -> dict[str, float]:
    """Median rates over six alternating rounds; ours draws whole batches (all six columns), the other images only."""
    rng, plain_rng = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def ours() -> object:
        return replay.sample(batch, length, rng)

    def indexed() -> object:
        env = plain_rng.integers(0, replay.num_envs, batch)
        start = plain_rng.integers(0, replay.capacity - length + 1, batch)
        return torch.from_numpy(plain[env[:, None], start[:, None] + np.arange(length)])

    rounds = [(rate(ours, batch, seconds / 6), rate(indexed, batch, seconds / 6)) for _ in range(6)]
    mine, theirs = (float(np.median(column)) for column in zip(*rounds, strict=True))
    return {
        "windows_per_second": round(mine),
        "windows_per_second_plain_memmap": round(theirs),
        "ratio": round(mine / theirs, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="windows per second")
    for name, default in (("rows", 4096), ("num_envs", 8), ("length", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=2.0, help="per batch size and side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    spec = Spec({"image": (3, 64, 64)}, ActionSpec("discrete", 5))
    with tempfile.TemporaryDirectory() as folder:
        replay = ReplayBuffer(spec, args.num_envs, args.rows, Path(folder) / "replay")
        rows_per_second = fill(replay, rng)
        plain = np.load(Path(folder) / "replay" / "obs_image.npy", mmap_mode="r", allow_pickle=False)

        batches = {str(batch): compare(replay, plain, batch, args.length, args.seconds) for batch in (16, 64, 256)}
    slowest = min(numbers["windows_per_second"] for numbers in batches.values())
    report = {
        "bench": "windows",
        "window": [args.length, 3, 64, 64],
        "data_mb": round(replay.bytes / 1e6, 1),
        "by_batch": batches,
        "add_rows_per_second": round(rows_per_second),
        "target": TARGET,
        "passed": slowest >= TARGET,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
