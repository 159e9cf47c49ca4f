"""One whole training step of Dreamer v3's world model, size S, beside a peer in the same run. Prints JSON.

    python bench/training_step.py [--peer DIR] [--threads 2] [--rounds 5] [--rows 16] [--length 64]

Encoder, recurrence, decoder, heads, losses, backward, clipping and Adam, on the same uint8 windows. DIR is a checkout
of NM512/dreamerv3-torch, used as it is with its own defaults (needs pyyaml and tensorboard); nothing is copied. Rounds
alternate, so that a busy machine slows both. `weights` says that both have networks of the same size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from isochrone.core.types import ActionSpec, Batch, Spec
from isochrone.training.device import generator, launch
from isochrone.training.step import Stepper
from isochrone.workflows import factory

ACTIONS = 6
Step = Callable[[], object]


def windows(rows: int, length: int) -> Batch:
    """Windows of noise: what is shown does not change what is computed."""
    rng = torch.Generator().manual_seed(0)
    first = torch.zeros(rows, length, dtype=torch.bool)
    first[:, 0] = True
    image = torch.randint(256, (rows, length, 3, 64, 64), generator=rng, dtype=torch.uint8)
    action = torch.rand(rows, length, ACTIONS, generator=rng) * 2 - 1
    reward = torch.rand(rows, length, generator=rng)
    return Batch({"image": image}, action, reward, first, torch.zeros_like(first), torch.zeros_like(first))


def ours(batch: Batch, device: str, precision: str) -> tuple[Step, int]:
    """(a step, number of weights) by the recipe dreamer_v3."""
    accelerator = "cuda" if device == "cuda" else "cpu"
    options = {"train.accelerator": accelerator, "train.precision": precision}
    options |= {"train.threads": str(torch.get_num_threads())}
    config = factory.make_config("dreamer_v3", options)
    spec = Spec({"image": (3, 64, 64)}, ActionSpec("continuous", ACTIONS))
    total = factory.make_objective(config, factory.make_learner(config, spec))
    stepper = Stepper(total, config.train, config.optim, launch(config.train))
    rng, here = generator(0, "bench", device), batch.to(device)
    return lambda: stepper(here, rng), sum(p.numel() for p in total.parameters())


def settings(folder: Path, device: str) -> Any:
    """The peer's own defaults, read from its configs.yaml."""
    import yaml

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: number(v) for k, v in value.items()}
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    defaults = yaml.safe_load((folder / "configs.yaml").read_text(encoding="utf-8"))["defaults"]
    return SimpleNamespace(**{**number(defaults), "device": device, "num_actions": ACTIONS})


def theirs(folder: Path, batch: Batch, device: str) -> tuple[Step, int]:
    """The same by the peer's WorldModel."""
    sys.path.insert(0, str(folder))
    models = importlib.import_module("models")
    space = SimpleNamespace(spaces={"image": SimpleNamespace(shape=(64, 64, 3))})
    sys.stdout, stdout = sys.stderr, sys.stdout  # it prints its size
    model = models.WorldModel(space, None, 0, settings(folder, device)).to(device)
    sys.stdout = stdout
    data = {
        "image": batch.obs["image"].permute(0, 1, 3, 4, 2).contiguous().numpy(),
        "action": batch.action.numpy(),
        "reward": batch.reward[..., None].numpy(),
        "is_first": batch.first.numpy(),
        "is_terminal": batch.terminal.numpy(),
    }
    return lambda: model._train({k: v.copy() for k, v in data.items()}), sum(p.numel() for p in model.parameters())


def settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peer", type=Path, default=None, help="a checkout of NM512/dreamerv3-torch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of ours")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batch = windows(args.rows, args.length)
    runs = {"isochrone": ours(batch, args.device, args.precision)}
    if args.peer:
        runs["peer"] = theirs(args.peer, batch, args.device)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, (step, _) in runs.items():
            begin = time.perf_counter()
            step()
            settle(args.device)
            if turn:  # the first round warms up
                spent[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(times) for name, times in spent.items()}
    results: dict[str, Any] = {
        "bench": "training_step", "device": args.device, "precision": args.precision, "threads": args.threads,
        "torch": torch.__version__, "rows": args.rows, "length": args.length,
        "weights": {name: count for name, (_, count) in runs.items()}, "seconds": middle,
        "frames_per_second": {name: round(args.rows * args.length / took, 1) for name, took in middle.items()},
    }  # fmt: skip
    if args.peer:
        results["ratio"] = middle["peer"] / middle["isochrone"]
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
