"""Distances between poses: one symmetric, three directed ones (quasimetrics). All obey the triangle inequality.

Each maps two poses (..., P), broadcast against each other, to d(a, b) (...): the number of actions *from* a *to* b.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Quasimetric(nn.Module):
    """Base: `forward` is d(a, b), `pairs` the table of all d(a_i, b_j).

    `separable`: any subset of the coordinates is a (shorter) distance of its own.
    """

    separable = False

    def pairs(self, a: Float[Tensor, "N P"], b: Float[Tensor, "M P"]) -> Float[Tensor, "N M"]:
        """d from every row of a to every row of b."""
        return self(a[:, None], b[None])


class Euclidean(Quasimetric):
    """||b - a||. Symmetric, so it cannot represent one-way doors."""

    def __init__(self, size: int) -> None:
        super().__init__()

    def forward(self, a: Float[Tensor, "*A P"], b: Float[Tensor, "*B P"]) -> Float[Tensor, "*C"]:
        return (b - a).square().sum(-1).add(1e-12).sqrt()  # 1e-12 keeps the gradient finite at a == b


class MaxCoordinate(Quasimetric):
    """max_i (b_i - a_i)_+ : the sup quasimetric, into which any finite quasimetric embeds (with p_i(x) = d(i, x))."""

    separable = True

    def __init__(self, size: int) -> None:
        super().__init__()

    def forward(self, a: Float[Tensor, "*A P"], b: Float[Tensor, "*B P"]) -> Float[Tensor, "*C"]:
        return (b - a).amax(-1).clamp_min(0)

    def pairs(self, a: Float[Tensor, "N P"], b: Float[Tensor, "M P"]) -> Float[Tensor, "N M"]:
        """As the base, without a gradient of size (N, M, P): only the deciding coordinate of each pair has one."""
        if not torch.is_grad_enabled():
            return super().pairs(a, b)
        with torch.no_grad():
            widest = (b[None] - a[:, None]).argmax(-1)  # (N, M)
        return (b.gather(1, widest.T).T - a.gather(1, widest)).clamp_min(0)


class Residual(Quasimetric):
    """Metric residual network (Liu et al. 2023, eq. 6): Euclidean plus sup-quasimetric part of learned maps of p."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.sym = nn.Sequential(nn.Linear(size, 64), nn.SiLU(), nn.Linear(64, 32))
        self.asym = nn.Sequential(nn.Linear(size, 64), nn.SiLU(), nn.Linear(64, 32))

    def forward(self, a: Float[Tensor, "*A P"], b: Float[Tensor, "*B P"]) -> Float[Tensor, "*C"]:
        near = (self.sym(b) - self.sym(a)).square().mean(-1).add(1e-12).sqrt()
        return near + (self.asym(b) - self.asym(a)).amax(-1).clamp_min(0)


class Interval(Quasimetric):
    """Interval quasimetric embedding (Wang & Isola 2022, eq. 10, mean over `groups`).

    Coordinate i of a group spans [a_i, max(a_i, b_i)]; the distance is the length of the union of the spans.
    """

    def __init__(self, size: int, groups: int = 8) -> None:
        super().__init__()
        if size % groups:
            raise ValueError(f"interval metric: pose size {size} is not a multiple of {groups}")
        self.groups = groups

    def forward(self, a: Float[Tensor, "*A P"], b: Float[Tensor, "*B P"]) -> Float[Tensor, "*C"]:
        a, b = torch.broadcast_tensors(a, b)
        low = a.unflatten(-1, (self.groups, -1))  # (..., G, m)
        high = torch.maximum(low, b.unflatten(-1, (self.groups, -1)))
        low, order = low.sort(-1)
        high = high.gather(-1, order).cummax(-1).values  # the union's right edge so far
        before = torch.cat([torch.full_like(high[..., :1], -torch.inf), high[..., :-1]], -1)
        return (high - torch.maximum(low, before)).clamp_min(0).sum(-1).mean(-1)


METRICS = {"max": MaxCoordinate, "euclidean": Euclidean, "residual": Residual, "interval": Interval}
