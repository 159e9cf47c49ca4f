"""What is exactly true of a linear-Gaussian system: likelihood, conditionals, the best filter. (float64)

s_t = A s_{t-1} + N(0, Q), s_0 = 0        o_t = H s_t + N(0, R)        t = 1..T

Does the exact likelihood rise with the ELBO? Linear-Gaussian model and filter climb it together, from the truth.

For measuring only.

How far an ELBO stays below the exact likelihood, in a world that tells its linear-Gaussian `system`.

For measuring only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cholesky, inv, slogdet, solve

from isochrone.core.tensors import rng_kwargs
from isochrone.core.types import Batch
from isochrone.evals.model_access import device_of, generator, numpy
from isochrone.evals.stats import bootstrap_mean

LOG_2PI = math.log(2 * math.pi)


class System(Protocol):
    """Matrices A (S, S), Q (S, S), H (D, S) and R (D, D)."""

    @property
    def a(self) -> Any: ...
    @property
    def q(self) -> Any: ...
    @property
    def h(self) -> Any: ...
    @property
    def r(self) -> Any: ...


def innovations(world: System, length: int) -> list[tuple[Tensor, Tensor]]:
    """The filter's (covariance of o_t given o_<t (D, D), gain (S, D)) at t = 1..T; they hang on no observation."""
    cov, found = torch.zeros_like(world.q), []
    for _ in range(length):
        cov = world.a @ cov @ world.a.T + world.q
        spread = world.h @ cov @ world.h.T + world.r
        gain = solve(spread, world.h @ cov).T
        cov = cov - gain @ world.h @ cov
        found.append((spread, gain))
    return found


def log_likelihood(world: System, seen: Float[Tensor, "B T D"]) -> Float[Tensor, "B"]:
    """ln p(o_1..o_T), by the Kalman filter."""
    mean = seen.new_zeros(len(seen), world.h.shape[1])
    total = seen.new_zeros(len(seen))
    for t, (spread, gain) in enumerate(innovations(world, seen.shape[1])):
        mean = mean @ world.a.T
        error = seen[:, t] - mean @ world.h.T  # (B, D)
        total = total - 0.5 * (
            (error * solve(spread, error.T).T).sum(-1) + slogdet(spread)[1] + error.shape[1] * LOG_2PI
        )
        mean = mean + error @ gain.T
    return total


def expected_log_likelihood(world: System, length: int, model: System | None = None) -> Float[Tensor, ""]:
    """Mean of ln p(o_1..o_T) by `model` over sequences of `world`; of the world's own (None): minus their entropy.

    Second moments of (true state, the model's filtered mean) are carried along. No model beats the world's own.
    """
    model = model or world
    truth, size = len(world.a), len(model.a)
    joint = world.a.new_zeros(truth + size, truth + size)
    total = joint.new_zeros(())
    x_move = torch.cat([world.a, joint.new_zeros(truth, size)], 1)
    o_move = world.h @ x_move
    error = o_move - model.h @ torch.cat([joint.new_zeros(size, truth), model.a], 1)  # of o's forecast
    for spread, gain in innovations(model, length):
        cov = error @ joint @ error.T + world.h @ world.q @ world.h.T + world.r
        total = total - 0.5 * (torch.trace(solve(spread, cov)) + slogdet(spread)[1] + len(spread) * LOG_2PI)
        m_move = torch.cat([joint.new_zeros(size, truth), model.a], 1) + gain @ error
        joint = _carried(joint, world, torch.cat([x_move, m_move]), gain)
    return total


def _carried(joint: Tensor, world: System, moves: Tensor, gain: Tensor) -> Tensor:
    """Second moments of (x, what follows o by `gain`) one step on: `moves`, then the noises of x and of o."""
    both = torch.cat([torch.eye(len(world.a), dtype=gain.dtype), gain @ world.h])
    noise = torch.nn.functional.pad(gain @ world.r @ gain.T, (len(world.a), 0, len(world.a), 0))
    return moves @ joint @ moves.T + both @ world.q @ both.T + noise


def conditionals(
    world: System, seen: Float[Tensor, "B T D"], ahead: bool = True
) -> tuple[Float[Tensor, "T S S"], Float[Tensor, "B T S"], Float[Tensor, "T S S"]]:
    """p(s_t | s_{t-1}, o_t..o_T) = N(F_t s_{t-1} + d_t, V_t), exactly: (F, d, V).

    By the backward information filter: p(o_t..o_T | s) is exp(-s'Ls/2 + l's) up to a constant. `ahead` False gives
    p(s_t | s_{t-1}, o_t), which knows nothing of what comes: the best guess of a filter that looks one step.
    """
    size = world.h.shape[1]
    eye, precision = torch.eye(size, dtype=torch.float64), inv(world.q)
    weigh = solve(world.r, world.h)  # R^-1 H, (D, S)
    info, gain = torch.zeros_like(eye), seen.new_zeros(len(seen), size)
    found = []
    for t in reversed(range(seen.shape[1])):
        info, gain = info + world.h.T @ weigh, gain + seen[:, t] @ weigh
        cov = inv(precision + info)
        found.append((cov @ precision @ world.a, gain @ cov.T, cov))
        back = solve(eye + info @ world.q, torch.cat([info, gain.T], 1))  # (S, S + B)
        info, gain = world.a.T @ back[:, :size] @ world.a, back[:, size:].T @ world.a
        if not ahead:
            info, gain = torch.zeros_like(info), torch.zeros_like(gain)
    f, d, v = zip(*reversed(found), strict=True)
    return torch.stack(f), torch.stack(d, 1), torch.stack(v)


@dataclass(frozen=True)
class LinearFilter:
    """A posterior that filters: q(s_t | s_{t-1}, o_t) = N(F s_{t-1} + K o_t, L L')."""

    f: Float[Tensor, "S S"]
    k: Float[Tensor, "S D"]
    chol: Float[Tensor, "S S"]

    def elbo(self, world: System, length: int, model: System | None = None) -> Float[Tensor, ""]:
        """Expected ELBO per step of `model` (None: the world itself) over sequences of `length` from `world`, exactly.

        Second moments of (true state, q's state) are carried along; every term of the ELBO is quadratic in them.
        """
        model = model or world
        truth, size, seen = len(world.a), len(model.a), len(world.h)
        joint = self.f.new_zeros(truth + size, truth + size)
        total = self.f.new_zeros(())
        spread = self.chol @ self.chol.T
        log_dets = slogdet(model.q)[1] - slogdet(spread)[1]
        x_move = torch.cat([world.a, self.f.new_zeros(truth, size)], 1)
        o_move = world.h @ x_move
        s_move = torch.cat([self.f.new_zeros(size, truth), self.f], 1) + self.k @ o_move
        o_noise = world.h @ world.q @ world.h.T + world.r
        # KL of the means: s_move (x, z) + K (noise of o) against A z
        apart = s_move - torch.cat([self.f.new_zeros(size, truth), model.a], 1)
        # ln N(o; H s, R), o - H s being linear in (x, z), the noises of x and o, and q's own
        miss = o_move - model.h @ s_move
        left = torch.eye(seen, dtype=torch.float64) - model.h @ self.k
        for _ in range(length):
            mean_gap = apart @ joint @ apart.T + self.k @ o_noise @ self.k.T
            kl = 0.5 * (torch.trace(solve(model.q, spread + mean_gap)) - size + log_dets)
            error = miss @ joint @ miss.T + left @ o_noise @ left.T + model.h @ spread @ model.h.T
            fit = -0.5 * (torch.trace(solve(model.r, error)) + slogdet(model.r)[1] + seen * LOG_2PI)
            total = total + fit - kl
            joint = _carried(joint, world, torch.cat([x_move, s_move]), self.k)
            joint = joint + torch.nn.functional.pad(spread, (truth, 0, truth, 0))
        return total / length

    @classmethod
    def best(cls, world: System, length: int, rounds: int = 30) -> Self:
        """The filter of the highest expected ELBO, by L-BFGS from p(s_t | s_{t-1}, o_t)."""
        precision = inv(world.q)
        cov = inv(precision + world.h.T @ solve(world.r, world.h))
        first = (cov @ precision @ world.a, cov @ solve(world.r, world.h).T, cholesky(cov))
        weights = [torch.nn.Parameter(x.contiguous().clone()) for x in first]
        ascend(weights, lambda: cls(weights[0], weights[1], weights[2].tril()).elbo(world, length), rounds)
        with torch.no_grad():
            return cls(weights[0].clone(), weights[1].clone(), weights[2].tril())


def ascend(weights: list[torch.nn.Parameter], bound: Callable[[], Tensor], rounds: int) -> None:
    """Move the weights to where the bound is highest, by `rounds` of 50 steps of L-BFGS."""
    search = torch.optim.LBFGS(weights, lr=1, max_iter=50, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        search.zero_grad()
        loss = -bound()
        loss.backward()
        return loss

    for _ in range(rounds):
        search.step(closure)


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


SEQUENCES = 4096
"""Episodes drawn from the system."""
DEPTH = 5
"""D of the overshooting objective that is compared with the ELBO."""


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
    length = env.episode_length + 1
    _, seen = env.system.simulate(count, length, rng)
    exact = log_likelihood(env.system, seen) / length
    draw = torch.Generator(device_of(model)).manual_seed(int(torch.randint(2**31, (), **rng_kwargs(rng))))
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
        past.append(mean + torch.randn(mean.shape, dtype=mean.dtype, **rng_kwargs(rng)) @ q.chol.T)
    gain = numpy(more / length)
    return {"overshot": float(gain.mean()), "overshot.interval": bootstrap_mean(gain, generator(rng))}


def _kl(mean: Tensor, cov: Tensor, other: Tensor, spread: Tensor) -> Float[Tensor, "B"]:
    """KL of normals that share their covariances over the batch."""
    apart = other - mean
    fixed = torch.trace(solve(spread, cov)) - len(cov) + slogdet(spread)[1] - slogdet(cov)[1]
    return 0.5 * ((apart * solve(spread, apart.T).T).sum(-1) + fixed)
