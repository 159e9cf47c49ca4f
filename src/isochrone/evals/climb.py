"""Does the exact likelihood rise with the ELBO? Linear-Gaussian model and filter climb it together, from the truth.

For measuring only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cholesky

from isochrone.evals.kalman import LinearFilter, System, ascend, expected_log_likelihood


@dataclass(frozen=True)
class Model:
    """A linear-Gaussian system whose noises are given by their roots."""

    a: Float[Tensor, "S S"]
    h: Float[Tensor, "D S"]
    root_q: Float[Tensor, "S S"]
    root_r: Float[Tensor, "D D"]

    @property
    def q(self) -> Float[Tensor, "S S"]:
        return self.root_q.tril() @ self.root_q.tril().T

    @property
    def r(self) -> Float[Tensor, "D D"]:
        return self.root_r.tril() @ self.root_r.tril().T


def climb(world: System, length: int, first: LinearFilter, rounds: int = 5) -> dict[str, Any]:
    """{'climb_elbo', 'climb_exact'}: nats per step that the expected ELBO and the exact log-likelihood gain over
    sequences of `length` from `world`, when model and posterior ascend the ELBO from the true system and `first`.

    The true system has the highest likelihood that any model has. The ELBO rises all the same wherever a model exists
    whose posterior this filter fits better: what shrinks then is the gap, not the distance to the data.
    """
    told = (world.a, world.h, cholesky(world.q), cholesky(world.r), first.f, first.k, first.chol)
    weights = [torch.nn.Parameter(x.contiguous().clone()) for x in told]

    def bound() -> Tensor:
        f, k, chol = weights[4:]
        return LinearFilter(f, k, chol.tril()).elbo(world, length, Model(*weights[:4]))

    with torch.no_grad():
        begun = bound()
    ascend(weights, bound, rounds)
    with torch.no_grad():
        exact = expected_log_likelihood(world, length, Model(*weights[:4])) - expected_log_likelihood(world, length)
        return {"climb_elbo": float(bound() - begun), "climb_exact": float(exact / length)}
