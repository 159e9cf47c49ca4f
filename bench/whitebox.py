"""How fast the white box runs: frames per second with drawing, steps per second without. Prints one JSON object.

    python bench/whitebox.py [--threads 1] [--seconds 1.0]

`env_step` is all that a user of `step` pays: checked actions, physics, resets, drawing into new memory and the row.
`transition` is physics alone, `draw` pixels alone, `draw_out` pixels written on a buffer of the caller's.
Large batches are slower per frame where fresh memory has to be fetched from the system for every batch (12 KB a frame).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable

import torch

from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig

SETUPS: dict[str, WhiteBoxConfig] = {
    "pipes": WhiteBoxConfig(map="pipes"),
    "pipes, momentum": WhiteBoxConfig(map="pipes", momentum=True),
    "zones": WhiteBoxConfig(map="zones"),
    "pipes, continuous": WhiteBoxConfig(map="pipes", actions="continuous"),
    "pipes, noise 0.5": WhiteBoxConfig(map="pipes", noise=0.5),
}
TARGETS = {
    "env_step": 200e3,
    "transition": 2e6,
}  # frames, steps per second of the setup 'pipes'


def rate(work: Callable[[int], object], count: int, seconds: float) -> float:
    """`count` things per call of `work`, per second; the median of five stretches."""
    for i in range(3):
        work(i)
    rates = []
    for _ in range(5):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 5:
            work(calls)
            calls += 1
        rates.append(calls * count / (time.perf_counter() - start))
    return sorted(rates)[2]


def measure(config: WhiteBoxConfig, batch: int, seconds: float) -> dict[str, int]:
    """Rates per second of one setup."""
    env = WhiteBox(config, batch)
    env.reset(0)
    rng = torch.Generator().manual_seed(0)
    actions = [env.spec.action.sample((batch,), rng) for _ in range(8)]
    state = env.state()
    buffer = torch.empty(batch, 3, 64, 64, dtype=torch.uint8)
    works = {
        "env_step": lambda i: env.step(actions[i % 8]),
        "transition": lambda i: env.transition(state, actions[i % 8]),
        "draw": lambda i: env.draw(state),
        "draw_out": lambda i: env.draw(state, buffer),
    }
    return {name: round(rate(work, batch, seconds)) for name, work in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each number")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rates = {
        name: {str(batch): measure(config, batch, args.seconds) for batch in (1024, 2048, 4096)}
        for name, config in SETUPS.items()
    }
    start = time.perf_counter()
    env = WhiteBox(WhiteBoxConfig(map="pipes"))
    built = time.perf_counter()
    env.table()
    plain = rates["pipes"]
    print(
        json.dumps(
            {
                "bench": "whitebox",
                "per_second": rates,
                "targets": TARGETS,
                "met": {k: all(r[k] >= target for r in plain.values()) for k, target in TARGETS.items()},
                "seconds": {"make": round(built - start, 4), "all distances": round(time.perf_counter() - built, 4)},
                "threads": args.threads,
                "torch": torch.__version__,
                "machine": platform.machine(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
