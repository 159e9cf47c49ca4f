"""How tight is the bound? The ELBO of a model against the exact likelihood of a linear-Gaussian system. (float64)

s_t = A s_{t-1} + N(0, Q), s_0 = 0        o_t = H s_t + N(0, R)        t = 1..T

First the metrics; then the exact likelihood by the Kalman filter; then the best posterior that filters, and what the
ELBO and the likelihood gain when a linear model and its filter ascend the ELBO together.
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

from isochrone.core.protocols import HasLinearSystem
from isochrone.core.tensors import rng_kwargs
from isochrone.core.types import Batch
from isochrone.evals.context import Context
from isochrone.evals.metric import Estimate, Question, family, metric
from isochrone.evals.model_access import model_device, numpy, numpy_generator
from isochrone.evals.stats import bootstrap_mean

LOG_2PI = math.log(2 * math.pi)
SEQUENCES = 4096
"""Episodes sampled from the system."""
DEPTH = 5
"""D of the overshooting objective that is compared with the ELBO."""

BOUND = Question(
    "likelihood",
    "How tight is the bound?",
    "ln p is known exactly here, by a Kalman filter, and the ELBO must stay below it. In the true states no posterior "
    "that filters closes the gap; a model that learns its own states may do better.",
    order=40,
)


@family("likelihood", BOUND, needs=["posterior", "prior"], env=[HasLinearSystem])
@metric("likelihood.exact", "exact log-likelihood, nats per step", "{:.4f}")
@metric("likelihood.elbo", "ELBO of the model", "{:.4f}")
@metric("likelihood.gap", "gap between them", "{:.4f}")
@metric("likelihood.best_filter_gap", "… of the best posterior that filters in the true states", "{:.4f}")
@metric("likelihood.gap_to_best_filter", "the model's gap beyond that (below 0: its states filter better)", "{:.4f}")
@metric("likelihood.ascent_elbo", "ELBO gained when model and filter ascend it from the truth", "{:.4f}")
@metric("likelihood.ascent_exact", "… exact log-likelihood gained meanwhile", "{:.4f}")
@metric("likelihood.overshooting_gain", "overshooting objective over the ELBO, true system and best filter", "{:.4f}")
def likelihood(context: Context) -> dict[str, Any]:
    """Nats per step over fresh episodes of the environment's system; see `bounds`."""
    return bounds(context.model, context.env, context.rng)


def bounds(model: Any, env: Any, rng: torch.Generator, count: int = SEQUENCES) -> dict[str, Any]:
    """{name: nats per step} over `count` fresh episodes.

    exact: ln p by the Kalman filter; elbo: the model's; gap: exact - elbo of the same episodes, never below 0 except by
    sampling noise; best_filter_gap: the gap of the best linear-Gaussian posterior that filters, optimised in the true
    system; gap_to_best_filter: gap - best_filter_gap, below 0 where the model has found other states with the same
    observations (innovations, say) in which filtering costs less. ascent_elbo, ascent_exact: see `elbo_ascent`;
    overshooting_gain: see there. These three depend on the system alone.
    """
    length = env.episode_length + 1
    _, obs = env.system.simulate(count, length, rng)
    exact = log_likelihood(env.system, obs) / length
    draw = torch.Generator(model_device(model)).manual_seed(int(torch.randint(2**31, (), **rng_kwargs(rng))))
    elbos = torch.cat([elbo(model, chunk, draw) for chunk in obs.split(512)]) / length
    gaps = numpy(exact - elbos)
    gap = float(gaps.mean())
    low, high = bootstrap_mean(gaps, numpy_generator(rng))
    separate = torch.Generator().manual_seed(SEQUENCES)  # another stream: the model's numbers do not depend on it
    best = LinearFilter.best(env.system, length)
    least = float(expected_log_likelihood(env.system, length) / length - best.elbo(env.system, length))
    return {
        "exact": float(exact.mean()),
        "elbo": float(elbos.mean()),
        "gap": Estimate(gap, (low, high)),
        "best_filter_gap": least,
        "gap_to_best_filter": Estimate(gap - least, (low - least, high - least)),
        **elbo_ascent(env.system, length, best),
        **overshooting_gain(env.system, obs, best, separate),
    }


@torch.no_grad()
def elbo(model: Any, obs: Float[Tensor, "B T D"], rng: torch.Generator | None) -> Float[Tensor, "B"]:
    """One-sample ELBO of each sequence in nats, constants included. (`model` must not squash vectors.)"""
    device, (count, length, width) = model_device(model), obs.shape
    none = torch.zeros(count, length, dtype=torch.bool, device=device)
    zeros = torch.zeros(count, length, device=device)
    batch = Batch({"state": obs.float().to(device)}, zeros[..., None], zeros, none, none, none)
    rollout = model.observe(batch, {"target", "vectors_hat", "posterior", "prior"}, rng)
    error = (rollout.vectors_hat["state"] - rollout.target["state"]).double().square().sum((1, 2))
    kl = rollout.posterior.kl(rollout.prior).double().sum((1, 2))
    return (-0.5 * (error + length * width * LOG_2PI) - kl).cpu()


def overshooting_gain(
    system: System, obs: Float[Tensor, "B T D"], q: LinearFilter, rng: torch.Generator
) -> dict[str, Any]:
    """{'overshooting_gain'}: nats per step by which the latent overshooting objective of `system` and `q` lies
    above their ELBO: the KL to the prior one step back, less the mean KL to the priors d = 1..`DEPTH` steps back.

    (PlaNet, Hafner et al. 2019, eq. 7, every beta 1.) The prior d steps later is N(A^d s, sum of A^k Q A^k'); the first
    rows of a sequence look back to its start, s = 0. Reconstructions are the same in both.
    """
    count, length = obs.shape[:2]
    powers = [torch.linalg.matrix_power(system.a, d) for d in range(DEPTH + 1)]
    spreads = [system.q]
    for _ in range(DEPTH - 1):
        spreads.append(system.a @ spreads[-1] @ system.a.T + system.q)
    past = [obs.new_zeros(count, len(system.a))]  # z_0, z_1, ...
    cov = q.chol @ q.chol.T
    total = obs.new_zeros(count)
    for t in range(length):
        mean = past[-1] @ q.f.T + obs[:, t] @ q.k.T
        each = [_kl(mean, cov, past[-d] @ powers[d].T, spreads[d - 1]) for d in range(1, min(DEPTH, len(past)) + 1)]
        total += each[0] - torch.stack(each).mean(0)
        past.append(mean + torch.randn(mean.shape, dtype=mean.dtype, **rng_kwargs(rng)) @ q.chol.T)
    gain = numpy(total / length)
    return {"overshooting_gain": Estimate(gain.mean(), bootstrap_mean(gain, numpy_generator(rng)))}


def _kl(mean: Tensor, cov: Tensor, other: Tensor, spread: Tensor) -> Float[Tensor, "B"]:
    """KL of normals that share their covariances over the batch."""
    difference = other - mean
    fixed = torch.trace(solve(spread, cov)) - len(cov) + slogdet(spread)[1] - slogdet(cov)[1]
    return 0.5 * ((difference * solve(spread, difference.T).T).sum(-1) + fixed)


# --- the exact likelihood -------------------------------------------------------------------------------------------


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


def innovations(system: System, length: int) -> list[tuple[Tensor, Tensor]]:
    """(Covariance of o_t given o_<t (D, D), Kalman gain (S, D)) at t = 1..T; no observation enters them."""
    cov, out = torch.zeros_like(system.q), []
    for _ in range(length):
        cov = system.a @ cov @ system.a.T + system.q
        spread = system.h @ cov @ system.h.T + system.r
        gain = solve(spread, system.h @ cov).T
        cov = cov - gain @ system.h @ cov
        out.append((spread, gain))
    return out


def log_likelihood(system: System, obs: Float[Tensor, "B T D"]) -> Float[Tensor, "B"]:
    """ln p(o_1..o_T), by the Kalman filter."""
    mean = obs.new_zeros(len(obs), system.h.shape[1])
    total = obs.new_zeros(len(obs))
    for t, (spread, gain) in enumerate(innovations(system, obs.shape[1])):
        mean = mean @ system.a.T
        error = obs[:, t] - mean @ system.h.T  # (B, D)
        total = total - 0.5 * (
            (error * solve(spread, error.T).T).sum(-1) + slogdet(spread)[1] + error.shape[1] * LOG_2PI
        )
        mean = mean + error @ gain.T
    return total


def expected_log_likelihood(system: System, length: int, model: System | None = None) -> Float[Tensor, ""]:
    """Mean of ln p(o_1..o_T) by `model` over sequences of `system`; by the system itself (None): minus their entropy.

    Second moments of (true state, the model's filtered mean) are propagated. No model has more than the system itself.
    """
    model = model or system
    truth, size = len(system.a), len(model.a)
    joint = system.a.new_zeros(truth + size, truth + size)
    total = joint.new_zeros(())
    x_move = torch.cat([system.a, joint.new_zeros(truth, size)], 1)
    o_move = system.h @ x_move
    error = o_move - model.h @ torch.cat([joint.new_zeros(size, truth), model.a], 1)  # of o's forecast
    for spread, gain in innovations(model, length):
        cov = error @ joint @ error.T + system.h @ system.q @ system.h.T + system.r
        total = total - 0.5 * (torch.trace(solve(spread, cov)) + slogdet(spread)[1] + len(spread) * LOG_2PI)
        m_move = torch.cat([joint.new_zeros(size, truth), model.a], 1) + gain @ error
        joint = _next_moments(joint, system, torch.cat([x_move, m_move]), gain)
    return total


def _next_moments(joint: Tensor, system: System, moves: Tensor, gain: Tensor) -> Tensor:
    """Second moments of (x, a state driven by o with `gain`) one step later: `moves`, then the noises of x and of o."""
    both = torch.cat([torch.eye(len(system.a), dtype=gain.dtype), gain @ system.h])
    noise = torch.nn.functional.pad(gain @ system.r @ gain.T, (len(system.a), 0, len(system.a), 0))
    return moves @ joint @ moves.T + both @ system.q @ both.T + noise


def conditionals(
    system: System, obs: Float[Tensor, "B T D"], look_ahead: bool = True
) -> tuple[Float[Tensor, "T S S"], Float[Tensor, "B T S"], Float[Tensor, "T S S"]]:
    """p(s_t | s_{t-1}, o_t..o_T) = N(F_t s_{t-1} + d_t, V_t), exactly: (F, d, V).

    By the backward information filter: p(o_t..o_T | s) is exp(-s'Ls/2 + l's) up to a constant. `look_ahead` False gives
    p(s_t | s_{t-1}, o_t), which depends on no later observation.
    """
    size = system.h.shape[1]
    eye, precision = torch.eye(size, dtype=torch.float64), inv(system.q)
    weigh = solve(system.r, system.h)  # R^-1 H, (D, S)
    info, gain = torch.zeros_like(eye), obs.new_zeros(len(obs), size)
    out = []
    for t in reversed(range(obs.shape[1])):
        info, gain = info + system.h.T @ weigh, gain + obs[:, t] @ weigh
        cov = inv(precision + info)
        out.append((cov @ precision @ system.a, gain @ cov.T, cov))
        back = solve(eye + info @ system.q, torch.cat([info, gain.T], 1))  # (S, S + B)
        info, gain = system.a.T @ back[:, :size] @ system.a, back[:, size:].T @ system.a
        if not look_ahead:
            info, gain = torch.zeros_like(info), torch.zeros_like(gain)
    f, d, v = zip(*reversed(out), strict=True)
    return torch.stack(f), torch.stack(d, 1), torch.stack(v)


# --- the best posterior that filters --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearFilter:
    """A posterior that filters: q(s_t | s_{t-1}, o_t) = N(F s_{t-1} + K o_t, L L')."""

    f: Float[Tensor, "S S"]
    k: Float[Tensor, "S D"]
    chol: Float[Tensor, "S S"]

    def elbo(self, system: System, length: int, model: System | None = None) -> Float[Tensor, ""]:
        """Expected ELBO per step of `model` (None: the system itself) over sequences of `length` from `system`, exact.

        Second moments of (true state, q's state) are propagated; every term of the ELBO is quadratic in them.
        """
        model = model or system
        truth, size, width = len(system.a), len(model.a), len(system.h)
        joint = self.f.new_zeros(truth + size, truth + size)
        total = self.f.new_zeros(())
        spread = self.chol @ self.chol.T
        log_dets = slogdet(model.q)[1] - slogdet(spread)[1]
        x_move = torch.cat([system.a, self.f.new_zeros(truth, size)], 1)
        o_move = system.h @ x_move
        s_move = torch.cat([self.f.new_zeros(size, truth), self.f], 1) + self.k @ o_move
        o_noise = system.h @ system.q @ system.h.T + system.r
        # KL of the means: s_move (x, z) + K (noise of o) against A z
        difference = s_move - torch.cat([self.f.new_zeros(size, truth), model.a], 1)
        # ln N(o; H s, R), o - H s being linear in (x, z), the noises of x and o, and q's own
        miss = o_move - model.h @ s_move
        left = torch.eye(width, dtype=torch.float64) - model.h @ self.k
        for _ in range(length):
            mean_gap = difference @ joint @ difference.T + self.k @ o_noise @ self.k.T
            kl = 0.5 * (torch.trace(solve(model.q, spread + mean_gap)) - size + log_dets)
            error = miss @ joint @ miss.T + left @ o_noise @ left.T + model.h @ spread @ model.h.T
            fit = -0.5 * (torch.trace(solve(model.r, error)) + slogdet(model.r)[1] + width * LOG_2PI)
            total = total + fit - kl
            joint = _next_moments(joint, system, torch.cat([x_move, s_move]), self.k)
            joint = joint + torch.nn.functional.pad(spread, (truth, 0, truth, 0))
        return total / length

    @classmethod
    def best(cls, system: System, length: int, rounds: int = 30) -> Self:
        """The filter of the highest expected ELBO, by L-BFGS from p(s_t | s_{t-1}, o_t)."""
        precision = inv(system.q)
        cov = inv(precision + system.h.T @ solve(system.r, system.h))
        first = (cov @ precision @ system.a, cov @ solve(system.r, system.h).T, cholesky(cov))
        weights = [torch.nn.Parameter(x.contiguous().clone()) for x in first]
        maximize(weights, lambda: cls(weights[0], weights[1], weights[2].tril()).elbo(system, length), rounds)
        with torch.no_grad():
            return cls(weights[0].clone(), weights[1].clone(), weights[2].tril())


def maximize(weights: list[torch.nn.Parameter], bound: Callable[[], Tensor], rounds: int) -> None:
    """Maximize the bound over the weights, by `rounds` of 50 steps of L-BFGS."""
    optimizer = torch.optim.LBFGS(weights, lr=1, max_iter=50, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -bound()
        loss.backward()
        return loss

    for _ in range(rounds):
        optimizer.step(closure)


@dataclass(frozen=True)
class LinearModel:
    """A linear-Gaussian system whose noise covariances are given by their roots."""

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


def elbo_ascent(system: System, length: int, first: LinearFilter, rounds: int = 5) -> dict[str, Any]:
    """{'ascent_elbo', 'ascent_exact'}: nats per step that the expected ELBO and the exact log-likelihood gain over
    sequences of `length` from `system`, when model and posterior ascend the ELBO from the true system and `first`.

    No model has a higher likelihood than the true system. The ELBO still rises wherever a model exists whose posterior
    this filter fits better: then the gap shrinks, not the distance to the data.
    """
    initial = (system.a, system.h, cholesky(system.q), cholesky(system.r), first.f, first.k, first.chol)
    weights = [torch.nn.Parameter(x.contiguous().clone()) for x in initial]

    def bound() -> Tensor:
        f, k, chol = weights[4:]
        return LinearFilter(f, k, chol.tril()).elbo(system, length, LinearModel(*weights[:4]))

    with torch.no_grad():
        before = bound()
    maximize(weights, bound, rounds)
    with torch.no_grad():
        exact = expected_log_likelihood(system, length, LinearModel(*weights[:4])) - expected_log_likelihood(
            system, length
        )
        return {"ascent_elbo": float(bound() - before), "ascent_exact": float(exact / length)}
