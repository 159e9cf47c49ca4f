"""What is exactly true of a linear-Gaussian system: likelihood, conditionals, the best filter. (float64)

s_t = A s_{t-1} + N(0, Q), s_0 = 0        o_t = H s_t + N(0, R)        t = 1..T
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
