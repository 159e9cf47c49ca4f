"""What is exactly true of a linear-Gaussian system: likelihood, conditionals, the best filter. (float64)

s_t = A s_{t-1} + N(0, Q), s_0 = 0        o_t = H s_t + N(0, R)        t = 1..T
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cholesky, inv, slogdet, solve

LOG_2PI = math.log(2 * math.pi)


class System(Protocol):
    """Matrices A (S, S), Q (S, S), H (D, S) and R (D, D)."""

    a: Any
    q: Any
    h: Any
    r: Any


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


def expected_log_likelihood(world: System, length: int) -> float:
    """Mean of ln p(o_1..o_T) over the system's own sequences: minus the entropy of the innovations."""
    return sum(-0.5 * float(slogdet(s)[1] + len(s) * (1 + LOG_2PI)) for s, _ in innovations(world, length))


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

    def elbo(self, world: System, length: int) -> Float[Tensor, ""]:
        """Expected ELBO per step over sequences of `length` from `world`, in closed form.

        Second moments of (true state, q's state) are carried along; every term of the ELBO is quadratic in them.
        """
        seen, size = world.h.shape
        joint = self.f.new_zeros(2 * size, 2 * size)
        total = self.f.new_zeros(())
        spread = self.chol @ self.chol.T
        log_dets = slogdet(world.q)[1] - slogdet(spread)[1]
        for _ in range(length):
            x_move = torch.cat([world.a, torch.zeros_like(world.a)], 1)  # (S, 2S)
            o_move = world.h @ x_move
            s_move = torch.cat([torch.zeros_like(self.f), self.f], 1) + self.k @ o_move
            o_noise = world.h @ world.q @ world.h.T + world.r
            # KL of the means: s_move z + K (noise of o) against A s
            apart = s_move - torch.cat([torch.zeros_like(world.a), world.a], 1)
            mean_gap = apart @ joint @ apart.T + self.k @ o_noise @ self.k.T
            kl = 0.5 * (torch.trace(solve(world.q, spread + mean_gap)) - size + log_dets)
            # ln N(o; H s, R), o - H s being linear in z, the noises of x and o, and q's own
            miss = o_move - world.h @ s_move
            left = torch.eye(seen, dtype=torch.float64) - world.h @ self.k
            error = miss @ joint @ miss.T + left @ o_noise @ left.T + world.h @ spread @ world.h.T
            fit = -0.5 * (torch.trace(solve(world.r, error)) + slogdet(world.r)[1] + seen * LOG_2PI)
            total = total + fit - kl
            moves = torch.cat([x_move, s_move])
            both = torch.cat([torch.eye(size, dtype=torch.float64), self.k @ world.h])  # of the noise of x
            extra = self.k @ world.r @ self.k.T + spread
            joint = moves @ joint @ moves.T + both @ world.q @ both.T
            joint = joint + torch.nn.functional.pad(extra, (size, 0, size, 0))
        return total / length

    @classmethod
    def best(cls, world: System, length: int, rounds: int = 30) -> Self:
        """The filter of the highest expected ELBO, by L-BFGS from p(s_t | s_{t-1}, o_t)."""
        precision = inv(world.q)
        cov = inv(precision + world.h.T @ solve(world.r, world.h))
        first = (cov @ precision @ world.a, cov @ solve(world.r, world.h).T, cholesky(cov))
        weights = [torch.nn.Parameter(x.contiguous().clone()) for x in first]
        search = torch.optim.LBFGS(weights, lr=1, max_iter=50, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure() -> Tensor:
            search.zero_grad()
            loss = -cls(weights[0], weights[1], weights[2].tril()).elbo(world, length)
            loss.backward()
            return loss

        for _ in range(rounds):
            search.step(closure)
        with torch.no_grad():
            return cls(weights[0].clone(), weights[1].clone(), weights[2].tril())
