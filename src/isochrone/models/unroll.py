"""A window of rows through a state-space model: everything that does not hang on h or z is computed before the loop."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.types import Batch
from isochrone.nets.gathered import gathering

Unrolled = tuple[Tensor, Tensor, Tensor]
"""h (B,T,D) as the prior sees it, z (B,T,S), the posterior's raw numbers (B,T,R)."""


def unroll(model: Any, batch: Batch, embed: Float[Tensor, "B T E"], rng: torch.Generator | None) -> Unrolled:
    """Beliefs along each window; the first row of a window, and of an episode, begins anew.

    Projections of actions and frames, and all noise, are made for every row at once and time first.
    """
    b, length = batch.shape
    first = batch.first.clone()
    first[:, 0] = True
    before = torch.cat([torch.zeros_like(batch.action[:, :1]), batch.action[:, :-1]], 1)  # the action that led here
    ahead = model.dynamics.ahead(before.masked_fill(first[..., None], 0).transpose(0, 1).to(embed.dtype))
    seen = model.posterior.ahead(embed).transpose(0, 1).contiguous()  # (T, B, U)
    begins = first.T[..., None].contiguous()  # (T, B, 1)
    noise = model.noise(length, b, rng=rng)
    h, z = (x.expand(b, -1) for x in model.begin())
    if model.config.posterior == "decoupled":
        return _apart(model, begins, ahead, seen, noise, h, z)
    return model.loop(begins, ahead, seen, noise, h, z)


def _apart(
    model: Any, first: Tensor, ahead: Tensor, seen: Tensor, noise: Tensor | None, h0: Tensor, z0: Tensor
) -> Unrolled:
    """The decoupled posterior: all z at once, only the memory in a loop."""
    raw = model.posterior(None, seen)  # (T, B, R)
    z = model.latent.sample(raw, noise)
    before = torch.where(first, z0, torch.cat([z0[None], z[:-1]]))
    h, hs = h0, []
    with gathering(model.dynamics):
        for begins, last, moved in zip(first, before.unbind(), ahead.unbind(), strict=True):
            h = model.dynamics(torch.where(begins, h0, h[..., : model.memory]), last, moved)
            hs.append(h)
    return torch.stack(hs, 1), z.transpose(0, 1), raw.transpose(0, 1)
