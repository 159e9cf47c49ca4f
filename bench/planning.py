"""CEM in a model against this machine's matrix rate, both in float32. Prints JSON.

    python bench/planning.py [--model zhp] [--candidates 1000] [--horizon 12] [--iterations 10] [--threads 1]

The operations of one plan are counted (multiply and add are two), not estimated; the rate of the machine is the best of
several square products. Rounds alternate, so that a busy machine slows both. The target is a fraction of 0.6.
Other options go to the model: `--h 256`. PlaNet's is `--model rssm --hidden 200 --head_units 200 --act relu`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from isochrone.core import registry
from isochrone.core.config import override, parse_flags
from isochrone.core.protocols import PredictsReward
from isochrone.core.types import ActionSpec, Spec
from isochrone.planners.cem import CEM
from isochrone.planners.cost import ReachCost, ReturnCost

TARGET = 0.6


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def task(name: str, options: dict[str, str], device: str) -> tuple[Any, Any, Any, ActionSpec]:
    """(model, state, bound cost, action space): an untrained model, in the state after one frame.

    The goal is another frame or, for a model that predicts rewards, the largest return with six continuous actions.
    """
    cls = registry.get("model", name)
    predicts_reward = issubclass(cls, PredictsReward)
    action = ActionSpec("continuous", 6) if predicts_reward else ActionSpec("discrete", 5, noop=4)
    spec = Spec({"image": (3, 64, 64)}, action)
    torch.manual_seed(0)
    model = cls(override(cls.Config(), options), spec).to(device).eval()
    rng = torch.Generator().manual_seed(0)
    frames = [
        {"image": torch.randint(256, (1, *spec.image), generator=rng, dtype=torch.uint8).to(device)} for _ in range(2)
    ]
    with torch.no_grad():
        noop = spec.action.idle((1,), device)
        state, goal = (model.update(model.start(1), noop, frame) for frame in frames)
    cost = ReturnCost(model.rewards) if predicts_reward else ReachCost(partial(model.distance, space="p"))
    return model, state, partial(cost, goal=goal), spec.action


def synchronize(device: str) -> None:
    """Wait for the accelerator, if there is one."""
    if device != "cpu":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace, options: dict[str, str]) -> dict[str, Any]:
    """Rates of the machine and of CEM, in GFLOP/s, each the median over alternating rounds."""
    model, state, cost, action = task(args.model, options, args.device)
    config = CEM.Config(
        horizon=args.horizon,
        candidates=args.candidates,
        iterations=args.iterations,
        elites=max(1, args.candidates // 10),
        chunk=args.chunk,
    )
    planner = CEM(config, action)

    def plan() -> None:
        rng = torch.Generator().manual_seed(0)
        imagine = partial(model.imagine, rng=rng, shared_noise=True) if model.is_stochastic else model.imagine
        planner.plan(imagine, state, cost, None, rng)
        synchronize(args.device)

    squares = {n: torch.randn(2, n, n, device=args.device) for n in args.sizes}

    def product(n: int) -> None:
        torch.mm(squares[n][0], squares[n][1])
        synchronize(args.device)

    work = operations(plan)
    times: dict[Any, list[float]] = {n: [] for n in [*args.sizes, "plan"]}
    for _ in range(args.rounds + 1):
        for n in args.sizes:
            times[n].append(seconds(partial(product, n)))
        times["plan"].append(seconds(plan))
    median = {k: sorted(v[1:])[len(v[1:]) // 2] for k, v in times.items()}  # the first round warms up
    rate = max(2 * n**3 / median[n] for n in args.sizes)
    return {
        "model": args.model,
        "options": options,
        "threads": torch.get_num_threads(),
        "device": args.device,
        "rate_gflops": round(rate / 1e9, 2),
        "cem_gflop": round(work / 1e9, 3),
        "cem_seconds": round(median["plan"], 4),
        "cem_gflops": round(work / median["plan"] / 1e9, 2),
        "fraction": round(work / median["plan"] / rate, 3),
        "target": TARGET,
        "steps_per_second": round(args.candidates * args.horizon * args.iterations / median["plan"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="zhp")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--device", default="cpu")
    args, rest = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(args, parse_flags(rest)), indent=2))


if __name__ == "__main__":
    main()
