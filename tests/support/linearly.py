"""What is true of linear-Gaussian systems, without a filter."""

import torch
from torch import Tensor

from isochrone.evals.metrics.likelihood import System


def covariance(system: System, length: int) -> Tensor:
    """Of all observations at once, (T D, T D), written down directly."""
    covs, cov = [], torch.zeros_like(system.a)
    for _ in range(length):
        cov = system.a @ cov @ system.a.T + system.q
        covs.append(cov)
    rows = []
    for i in range(length):
        row = []
        for j in range(length):
            later = torch.linalg.matrix_power(system.a, abs(i - j))
            state = later @ covs[j] if i >= j else covs[i] @ later.T
            row.append(system.h @ state @ system.h.T + (system.r if i == j else 0))
        rows.append(torch.cat(row, 1))
    return torch.cat(rows)
