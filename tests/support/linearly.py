"""What is true of linear-Gaussian systems, without a filter."""

import torch
from torch import Tensor

from isochrone.evals.metrics.likelihood import System


def covariance(world: System, length: int) -> Tensor:
    """Of all observations at once, (T D, T D), written down directly."""
    covs, cov = [], torch.zeros_like(world.a)
    for _ in range(length):
        cov = world.a @ cov @ world.a.T + world.q
        covs.append(cov)
    rows = []
    for i in range(length):
        row = []
        for j in range(length):
            later = torch.linalg.matrix_power(world.a, abs(i - j))
            state = later @ covs[j] if i >= j else covs[i] @ later.T
            row.append(world.h @ state @ world.h.T + (world.r if i == j else 0))
        rows.append(torch.cat(row, 1))
    return torch.cat(rows)
