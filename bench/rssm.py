"""RSSM: observe, KL and backward, beside a peer in the same run. Prints JSON with seconds, ratio and operations.

    python bench/rssm.py [--size S|12M] [--peer DIR] [--threads 2] [--rounds 7] [--compile none|step|unroll]

DIR is a checkout of NM512/dreamerv3-torch (size S) or NM512/r2dreamer (size 12M), used as it is; nothing is copied.
Both see the same batch of 16 windows of 64 rows with embeddings of 4096 numbers; rounds alternate, so that a busy
machine slows both, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from isochrone.core.types import ActionSpec, Batch, Spec
from isochrone.losses.elbo import Kl, balanced_kl
from isochrone.models.statespace import RSSM
from isochrone.recipes.dreamer import SIZE_12M, SIZE_S

ROWS, LENGTH, ACTIONS, EMBED = 16, 64, 6, 4096
TARGETS = {"S": 2.3, "12M": 1.5}
VIEWS = {"view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "split", "chunk",
         "unsqueeze", "squeeze", "detach", "alias", "as_strided", "unbind", "split_with_sizes", "unfold"}  # fmt: skip
SYNCS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero"}


class Ops(TorchDispatchMode):
    """Counts operations that compute, and those that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def computing(self) -> int:
        return sum(n for name, n in self.seen.items() if name not in VIEWS)

    def syncs(self) -> int:
        return sum(self.seen[name] for name in SYNCS)


def ours(size: str, compile: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(embed, action) -> loss, by our loop."""
    config = replace({"S": SIZE_S, "12M": replace(SIZE_12M, prior_layers=2)}[size], compile=compile)
    spec = Spec({"image": (3, 64, 64)}, ActionSpec("continuous", ACTIONS))
    model = RSSM(config, spec)
    first = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    first[:, 0] = True
    empty = torch.zeros(ROWS, LENGTH)
    settings, rng = Kl(dyn=0.5, rep=0.1, free=1.0), torch.Generator().manual_seed(0)

    def loss(embed: Tensor, action: Tensor) -> Tensor:
        batch = Batch({}, action, empty, first, first, first)
        h, z, raw = model.unroll(batch, embed, rng)
        q, p = model.latent.dist(raw), model.latent.dist(model.prior(h))
        return balanced_kl(q, p, settings, torch.ones_like(first)) + z.square().mean() + h.square().mean()

    return loss


def dreamerv3_torch(folder: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The same by NM512/dreamerv3-torch at size S."""
    sys.path.insert(0, folder)
    networks = importlib.import_module("networks")
    model = networks.RSSM(
        stoch=32, deter=512, hidden=512, discrete=32, num_actions=ACTIONS, embed=EMBED, device="cpu", initial="learned"
    )
    first = torch.zeros(ROWS, LENGTH)
    first[:, 0] = 1

    def loss(embed: Tensor, action: Tensor) -> Tensor:
        post, prior = model.observe(embed, action.clone(), first)
        kl = model.kl_loss(post, prior, 1.0, 0.5, 0.1)[0].mean()
        return kl + post["stoch"].square().mean() + post["deter"].square().mean()

    return loss


def r2dreamer(folder: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The same by NM512/r2dreamer at size 12M, eager."""
    sys.path.insert(0, folder)
    module = importlib.import_module("rssm")
    config = SimpleNamespace(stoch=32, deter=2048, hidden=256, discrete=16, act="SiLU", unimix_ratio=0.01)
    more = {"initial": "learned", "device": "cpu", "obs_layers": 1, "img_layers": 2, "dyn_layers": 1, "blocks": 8}
    config.__dict__.update(more)
    model = module.RSSM(config, EMBED, ACTIONS)
    first = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    first[:, 0] = True

    def loss(embed: Tensor, action: Tensor) -> Tensor:
        stoch, deter, logit = model.observe(embed, action, model.initial(ROWS), first)
        dyn, rep = model.kl_loss(logit, model.prior(deter)[1], 1.0)
        return (0.5 * dyn + 0.1 * rep).mean() + stoch.square().mean() + deter.square().mean()

    return loss


def counted(loss: Callable[[Tensor, Tensor], Tensor], data: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Operations per time step, forward and with backward, and host waits per step."""
    with Ops() as forward:
        value = loss(*data)
    with Ops() as backward:
        value.backward()
    total = forward.computing() + backward.computing()
    waits = (forward.syncs() + backward.syncs()) / LENGTH
    return {"forward": forward.computing() / LENGTH, "both": total / LENGTH, "host_waits": waits}


def seconds(loss: Callable[[Tensor, Tensor], Tensor], data: tuple[Tensor, Tensor]) -> float:
    """Wall time of one forward and backward pass."""
    begin = time.perf_counter()
    loss(*data).backward()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--size", choices=TARGETS, default="S")
    parser.add_argument("--peer", default=None, help="a checkout of the peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", choices=("none", "step", "unroll"), default="none")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = (torch.randn(ROWS, LENGTH, EMBED), torch.rand(ROWS, LENGTH, ACTIONS) * 2 - 1)
    mine = ours(args.size, args.compile)
    runs = {"isochrone": mine}
    if args.peer:
        runs["peer"] = dreamerv3_torch(args.peer) if args.size == "S" else r2dreamer(args.peer)
    times_of: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, loss in runs.items():
            took = seconds(loss, data)
            if turn:  # the first round warms up
                times_of[name].append(took)
    results: dict[str, Any] = {
        "bench": "rssm", "size": args.size, "compile": args.compile, "threads": args.threads,
        "torch": torch.__version__,
        "batch": ROWS, "length": LENGTH, "embed": EMBED,
        "seconds": {name: statistics.median(times) for name, times in times_of.items()},
        "fastest": {name: min(times) for name, times in times_of.items()},
    }  # fmt: skip
    if args.compile == "none":
        results["per_time_step"] = {name: counted(loss, data) for name, loss in runs.items()}
    if args.peer:
        results["ratio"] = results["seconds"]["peer"] / results["seconds"]["isochrone"]
        results["ratio_of_fastest"] = results["fastest"]["peer"] / results["fastest"]["isochrone"]
        results["target"] = TARGETS[args.size]
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
