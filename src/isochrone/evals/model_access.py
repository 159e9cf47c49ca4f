"""Query a model in chunks and without gradients; answers for statistics come in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from isochrone.core.types import ActionSpec, Batch

CHUNK = 512
"""Frames encoded at once; rows of a pair matrix are cut so that about 2^15 pairs are compared at once."""


def model_device(model: Any) -> torch.device:
    """Where the model's parameters are; the CPU if it has none."""
    first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    return first.device if first is not None else torch.device("cpu")


def numpy(x: Tensor) -> np.ndarray:
    """float64 on the CPU."""
    return x.to("cpu", torch.float64).numpy()


@torch.no_grad()
def encode(model: Any, images: UInt8[Tensor, "N C Y X"]) -> Float[Tensor, "N Z"]:
    """z of many frames."""
    device = model_device(model)
    return torch.cat([model.encode_image(chunk.to(device)) for chunk in images.split(CHUNK)])


@torch.no_grad()
def single_frame_states(model: Any, images: UInt8[Tensor, "N C Y X"], action: ActionSpec) -> Any:
    """State[N] of the model after each frame alone, at the start of an episode."""
    device, states = model_device(model), []
    for chunk in images.split(CHUNK):
        idle = action.idle((len(chunk),), device)
        states.append(model.update(model.start(len(chunk)), idle, {"image": chunk.to(device)}))
    return type(states[0]).cat(states)


@torch.no_grad()
def filtered(model: Any, batch: Batch, action: ActionSpec) -> Any:
    """State[B, T] after every row of a recording; it starts anew at each first row."""
    device = model_device(model)
    batch = batch.to(device)
    count, length = batch.shape
    state, last, states = model.start(count), action.idle((count,), device), []
    rows = torch.arange(count, device=device)
    for t in range(length):
        stacked = type(state).stack([state, model.start(count)])  # [2, B]: carried on, or started anew
        state = model.update(stacked[batch.first[:, t].long(), rows], last, {k: v[:, t] for k, v in batch.obs.items()})
        last = batch.action[:, t]
        states.append(state)
    return type(state).stack(states, dim=1)


def merge_time(state: Any) -> Any:
    """State[B, T] -> State[B*T]."""
    return state.map(lambda x: x.flatten(0, 1))


@torch.no_grad()
def pairwise_distance(model: Any, a: Any, b: Any, space: str) -> Float[np.ndarray, "M N"]:
    """The model's distance from each state of a[M] to each of b[N]."""
    count = len(a.z)
    rows = max(1, 2**15 // max(1, len(b.z)))
    parts = []
    for at in range(0, count, rows):
        left = a[at : at + rows].map(lambda x: x[:, None])
        parts.append(model.distance(left, b.map(lambda x: x[None]), space))
    return numpy(torch.cat(parts))


@torch.no_grad()
def symmetric_distance(model: Any, a: Any, b: Any) -> Float[np.ndarray, " N"]:
    """The larger of d_p(a, b) and d_p(b, a), row by row: a one-sided distance may be 0 between different poses."""
    return numpy(torch.maximum(model.distance(a, b, "p"), model.distance(b, a, "p")))


def numpy_generator(rng: torch.Generator) -> np.random.Generator:
    """A numpy generator seeded from a torch one."""
    return np.random.default_rng(int(torch.randint(2**31 - 1, (1,), generator=rng, device=rng.device)))
