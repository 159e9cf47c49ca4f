"""How far an ELBO stays below the exact likelihood, in a world that tells its linear-Gaussian `system`.

For measuring only.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.draw import by
from isochrone.core.types import Batch
from isochrone.evals.climb import climb
from isochrone.evals.kalman import LOG_2PI, LinearFilter, expected_log_likelihood, log_likelihood
from isochrone.evals.latent import device_of, generator, numpy
from isochrone.evals.stats import bootstrap_mean

SEQUENCES = 4096
"""Episodes drawn from the system."""


def linear(env: Any) -> bool:
    """Is this a world of which every likelihood is known?"""
    return hasattr(env, "system") and hasattr(env.config, "episode_length")


@torch.no_grad()
def elbo(model: Any, seen: Float[Tensor, "B T D"], rng: torch.Generator | None) -> Float[Tensor, "B"]:
    """One-sample ELBO of each sequence in nats, constants included. (`model` passes vectors unsquashed.)"""
    device, (count, length, width) = device_of(model), seen.shape
    no = torch.zeros(count, length, dtype=torch.bool, device=device)
    nothing = torch.zeros(count, length, device=device)
    batch = Batch({"state": seen.float().to(device)}, nothing[..., None], nothing, no, no, no)
    roll = model.observe(batch, {"target", "vectors_hat", "posterior", "prior"}, rng)
    error = (roll.vectors_hat["state"] - roll.target["state"]).double().square().sum((1, 2))
    kl = roll.posterior.kl(roll.prior).double().sum((1, 2))
    return (-0.5 * (error + length * width * LOG_2PI) - kl).cpu()


def bounds(model: Any, env: Any, rng: torch.Generator, count: int = SEQUENCES) -> dict[str, Any]:
    """{'likelihood.NAME': nats per step} over `count` fresh episodes.

    exact: ln p by the Kalman filter; elbo: the model's; gap: exact - elbo of the same episodes, never below 0 but by
    chance; filter: the gap of the best linear-Gaussian posterior that filters, optimised directly in the true system;
    short: gap - filter. Below 0 where the model has found other states with the same observations (innovations, say) in
    which filtering costs less. climb_elbo, climb_exact: what both gain when model and filter climb the ELBO from the
    truth; these two hang on the system alone.
    """
    length = env.config.episode_length + 1
    _, seen = env.system.simulate(count, length, rng)
    exact = log_likelihood(env.system, seen) / length
    draw = torch.Generator(device_of(model)).manual_seed(int(torch.randint(2**31, (), **by(rng))))
    ours = torch.cat([elbo(model, chunk, draw) for chunk in seen.split(512)]) / length
    gaps = numpy(exact - ours)
    low, high = bootstrap_mean(gaps, generator(rng))
    best = LinearFilter.best(env.system, length)
    least = float(expected_log_likelihood(env.system, length) / length - best.elbo(env.system, length))
    found = {
        "exact": float(exact.mean()),
        "elbo": float(ours.mean()),
        "gap": float(gaps.mean()),
        "gap.interval": (low, high),
        "filter": least,
        "short": float(gaps.mean()) - least,
        "short.interval": (low - least, high - least),
        **climb(env.system, length, best),
    }
    return {f"likelihood.{name}": value for name, value in found.items()}
