"""On a GPU: the same numbers as on the CPU, no host wait inside a training step, and what a step takes. Prints JSON.

    python bench/gpu.py [--recipes zhp,planet,dreamer_v3] [--runs loop,step] [--steps 20] [--device cuda]

`agree`: largest relative difference of losses and of gradient norms per group between CPU and GPU, at the same noise
and in full float32. `waits`: what `torch.cuda.set_sync_debug_mode("error")` had to say about a training step ("none").
`ms`: median milliseconds of a training step (encoder, recurrence, decoder, heads, backward, clipping, AdamW).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from isochrone.core.types import ActionSpec, Batch, Spec
from isochrone.losses.routes import gradients, norms_of
from isochrone.training.device import generator, launch
from isochrone.training.step import Stepper
from isochrone.workflows import factory


def windows(rows: int, length: int, actions: int, seed: int = 0) -> Batch:
    """Windows of noise with an episode's end inside."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.zeros(rows, length, dtype=torch.bool)
    first[:, 0] = first[0, length // 2] = True
    last = torch.zeros_like(first)
    last[0, length // 2 - 1] = True
    image = torch.randint(256, (rows, length, 3, 64, 64), generator=rng, dtype=torch.uint8)
    action = torch.nn.functional.one_hot(torch.randint(actions, (rows, length), generator=rng), actions).float()
    return Batch({"image": image}, action, torch.rand(rows, length, generator=rng), first, last, torch.zeros_like(last))


def made(recipe: str, changes: dict[str, str], spec: Spec) -> tuple[Any, Any]:
    """(config, total) with the first weights of the recipe's seed, on the CPU."""
    config = factory.make_config(recipe, changes)
    return config, factory.make_objective(config, factory.make_learner(config, spec))


def agreement(recipe: str, spec: Spec, device: str) -> dict[str, float]:
    """Largest relative difference between CPU and `device`: of any loss, and of any gradient norm of a loss."""
    config, total = made(recipe, {}, spec)
    batch = windows(4, config.train.length, spec.action.size)
    results: list[tuple[dict[str, float], dict[str, float]]] = []
    for place in ("cpu", device):
        total.to(place)
        losses = total.values(batch.to(place), generator(0, "same noise"))
        groups = total.learner.groups()
        norms = {f"{n}/{g}": s for n, v in losses.items() for g, s in norms_of(gradients(v, groups)).items()}
        results.append(({name: float(value) for name, value in losses.items()}, norms))
    return {kind: max(_differences(a, b)) for kind, a, b in zip(("loss", "gradient"), *results, strict=True)}


def _differences(a: dict[str, float], b: dict[str, float]) -> list[float]:
    return [abs(a[name] - b[name]) / max(abs(a[name]), 1e-6) for name in a]


def stepper(recipe: str, changes: dict[str, str], spec: Spec, device: str) -> Callable[[], object]:
    """One training step of the recipe's own batch."""
    config, total = made(recipe, {**changes, "train.accelerator": device}, spec)
    made_ = Stepper(total, config.train, config.optim, launch(config.train))
    batch = windows(config.train.batch, config.train.length, spec.action.size).to(device)
    rng = generator(0, "bench", device)
    return lambda: made_(batch, rng)


def waits(step: Callable[[], object]) -> str:
    """'none', or what the first host wait of a step was."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def milliseconds(step: Callable[[], object], steps: int, gpu: bool) -> float:
    """Median time of a step, waited for."""
    spent = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        if gpu:
            torch.cuda.synchronize()
        spent.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--recipes", default="zhp,planet,dreamer_v3")
    parser.add_argument("--runs", default="none,step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    spec = Spec({"image": (3, 64, 64)}, ActionSpec("discrete", 5, noop=0))
    card = torch.cuda.get_device_name() if gpu else "cpu"
    results: dict[str, Any] = {"bench": "gpu", "card": card, "torch": torch.__version__, "recipes": {}}
    for recipe in args.recipes.split(","):
        comparison: dict[str, Any] = {"agree": agreement(recipe, spec, args.device), "ms": {}}
        runs = args.runs.split(",") if recipe != "zhp" else ["none"]
        for run in runs:
            step = stepper(recipe, {} if run == "none" else {"model.compile": run}, spec, args.device)
            for _ in range(3):
                step()
            if gpu:
                comparison.setdefault("waits", {})[run] = waits(step)
            comparison["ms"][run] = milliseconds(step, args.steps, gpu)
        config = factory.make_config(recipe)
        comparison["frames"] = config.train.batch * config.train.length
        results["recipes"][recipe] = comparison
        print(json.dumps({recipe: comparison}), flush=True)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
