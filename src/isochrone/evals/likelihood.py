"""How far an ELBO stays below the exact likelihood, in a world that tells its linear-Gaussian `system`.

For measuring only.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import slogdet, solve

from isochrone.core.draw import by
from isochrone.core.types import Batch
from isochrone.evals.climb import climb
from isochrone.evals.kalman import LOG_2PI, LinearFilter, System, expected_log_likelihood, log_likelihood
from isochrone.evals.latent import device_of, generator, numpy
from isochrone.evals.stats import bootstrap_mean

SEQUENCES = 4096
"""Episodes drawn from the system."""
DEPTH = 5
"""D of the overshooting objective that is compared with the ELBO."""


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
    truth; overshot: see there. These three hang on the system alone.
    """
    length = env.config.episode_length + 1
    _, seen = env.system.simulate(count, length, rng)
    exact = log_likelihood(env.system, seen) / length
    draw = torch.Generator(device_of(model)).manual_seed(int(torch.randint(2**31, (), **by(rng))))
    ours = torch.cat([elbo(model, chunk, draw) for chunk in seen.split(512)]) / length
    gaps = numpy(exact - ours)
    low, high = bootstrap_mean(gaps, generator(rng))
    exactly = torch.Generator().manual_seed(SEQUENCES)  # a stream of its own: the model's numbers keep theirs
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
        **overshot(env.system, seen, best, exactly),
    }
    return {f"likelihood.{name}": value for name, value in found.items()}


def overshot(world: System, seen: Float[Tensor, "B T D"], q: LinearFilter, rng: torch.Generator) -> dict[str, Any]:
    """{'overshot', with interval}: nats per step by which the latent overshooting objective of `world` and `q` lies
    above their ELBO: the KL to the prior one step back, less the mean KL to the priors d = 1..`DEPTH` steps back.

    (PlaNet, Hafner et al. 2019, eq. 7, every beta 1.) The prior d steps on is N(A^d s, sum of A^k Q A^k'); the first
    rows of a sequence look back to its known begin, s = 0. Reconstructions are the same in both.
    """
    count, length = seen.shape[:2]
    powers = [torch.linalg.matrix_power(world.a, d) for d in range(DEPTH + 1)]
    spreads = [world.q]
    for _ in range(DEPTH - 1):
        spreads.append(world.a @ spreads[-1] @ world.a.T + world.q)
    past = [seen.new_zeros(count, len(world.a))]  # z_0, z_1, ...
    cov = q.chol @ q.chol.T
    more = seen.new_zeros(count)
    for t in range(length):
        mean = past[-1] @ q.f.T + seen[:, t] @ q.k.T
        each = [_kl(mean, cov, past[-d] @ powers[d].T, spreads[d - 1]) for d in range(1, min(DEPTH, len(past)) + 1)]
        more += each[0] - torch.stack(each).mean(0)
        past.append(mean + torch.randn(mean.shape, dtype=mean.dtype, **by(rng)) @ q.chol.T)
    gain = numpy(more / length)
    return {"overshot": float(gain.mean()), "overshot.interval": bootstrap_mean(gain, generator(rng))}


def _kl(mean: Tensor, cov: Tensor, other: Tensor, spread: Tensor) -> Float[Tensor, "B"]:
    """KL of normals that share their covariances over the batch."""
    apart = other - mean
    fixed = torch.trace(solve(spread, cov)) - len(cov) + slogdet(spread)[1] - slogdet(cov)[1]
    return 0.5 * ((apart * solve(spread, apart.T).T).sum(-1) + fixed)
