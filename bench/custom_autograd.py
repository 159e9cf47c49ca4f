"""What the hand-written autograd functions gain, each switched off in turn in the same run. Prints JSON.

    python bench/custom_autograd.py [--threads 1] [--rounds 5] [--rows 16] [--length 64]

deferred_grad: nets/linear.py, one weight gradient per loop over time instead of one per step.
straight_through: nets/distributions.py, sampling a categorical as one autograd node instead of seven.
half_squares: losses/elbo.py, half the squared error of images in two passes over memory instead of four.

deferred_grad is measured on forward, KL and backward of Dreamer v3's RSSM (size S) from embeddings; the others on their
own: `length` samples of 32 x 32 classes for each row, and images of (rows, length, 3, 64, 64). Rounds alternate between
on and off, so that a busy machine slows both. `ratio` is off / on, of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from isochrone.core.types import ActionSpec, Batch, Spec
from isochrone.losses import elbo
from isochrone.models import statespace
from isochrone.models.statespace import RSSM
from isochrone.nets import distributions
from isochrone.recipes.dreamer import SIZE_S

EMBED = 4096


def rssm_step(rows: int, length: int) -> Callable[[], None]:
    """Forward, KL and backward of an RSSM of size S from embeddings."""
    torch.manual_seed(0)
    model = RSSM(SIZE_S, Spec({"image": (3, 64, 64)}, ActionSpec("continuous", 6)))
    rng = torch.Generator().manual_seed(0)
    first = torch.zeros(rows, length, dtype=torch.bool)
    batch = Batch({}, torch.randn(rows, length, 6, generator=rng), torch.zeros(rows, length), first, first, first)
    embed = torch.randn(rows, length, model.encoder.out, generator=rng)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        h, z, raw = model.unroll(batch, embed, rng)
        kl = model.latent.dist(raw).kl(model.latent.dist(model.prior(h))).sum(-1).mean()
        (kl + z.square().mean() + h.square().mean()).backward()

    return step


def sample_step(rows: int, length: int) -> Callable[[], None]:
    """Samples of z in a loop over time, and their gradient."""
    rng = torch.Generator().manual_seed(0)
    latent = distributions.Categorical(32, 32)
    logits = torch.randn(length, rows, latent.param_size, generator=rng, requires_grad=True)
    noise = latent.noise(length, rows, like=logits, rng=rng)

    def step() -> None:
        logits.grad = None
        samples = [latent.sample(x, n) for x, n in zip(logits.unbind(), noise.unbind(), strict=True)]
        (torch.stack(samples) * noise.flatten(-2)).sum().backward()

    return step


def image_step(rows: int, length: int) -> Callable[[], None]:
    """Half the squared error of images and its gradient."""
    target = torch.rand(rows, length, 3, 64, 64)
    image = torch.rand(rows, length, 3, 64, 64, requires_grad=True)

    def step() -> None:
        image.grad = None
        elbo.HalfSquares.apply(target, image, 2).mean().backward()

    return step


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` inside."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def plain_half_squares(target: Tensor, image: Tensor, lead: int) -> Tensor:
    return 0.5 * (image - target).square().flatten(lead).sum(-1)


OFF: dict[str, Callable[[], Any]] = {
    "deferred_grad": lambda: replaced(statespace, "defer_weight_grad", lambda *modules, enabled=True: nullcontext()),
    "straight_through": lambda: replaced(
        distributions, "StraightThrough", SimpleNamespace(apply=distributions.straight_through)
    ),
    "half_squares": lambda: replaced(elbo, "HalfSquares", SimpleNamespace(apply=plain_half_squares)),
}


def seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"bench": "custom_autograd", **vars(args), "torch": torch.__version__, "gain": {}}
    makers = {"deferred_grad": rssm_step, "straight_through": sample_step, "half_squares": image_step}
    for name, off in OFF.items():
        step = makers[name](args.rows, args.length)
        on_times, off_times = [], []
        step()  # warm-up
        for _ in range(args.rounds):
            on_times.append(seconds(step))
            with off():
                off_times.append(seconds(step))
        median_on, median_off = statistics.median(on_times), statistics.median(off_times)
        result["gain"][name] = {"on": median_on, "off": median_off, "ratio": median_off / median_on}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
