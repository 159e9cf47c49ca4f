"""Odometry and the effect of actions: right odometers cost nothing, wrong ones what a loop over windows says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tinymodel import generator, make_env, tiny, windows
from torch import Tensor, nn
from torch.nn import functional as F

from isochrone.core import registry
from isochrone.core.types import Batch, Rollout
from isochrone.losses.action_consistency import action_error
from isochrone.nets.quasimetric import Euclidean


def term(name: str) -> Any:
    return registry.get("loss", name)


class Odometer(nn.Module):
    """Knows each action's step exactly, but for an error that it adds to every one."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.moves = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
        self.error = nn.Parameter(torch.full((3,), error, dtype=torch.float64))
        self.prototypes = nn.ParameterDict({"p": self.moves})
        self.metric = Euclidean(3)

    def odometry(self, p: Tensor, h: Tensor, action: Tensor) -> Tensor:
        return action.double() @ self.moves + self.error


def flat(length: int = 9) -> Batch:
    """Two windows of random actions; the second crosses an episode's end after row 3."""
    rng, no = generator(2), torch.zeros(2, length, dtype=torch.bool)
    last, first = no.clone(), no.clone()
    last[1, 3], first[1, 4] = True, True
    image = torch.arange(2 * length).reshape(2, length, 1, 1, 1).to(torch.uint8).expand(-1, -1, 1, 4, 4).contiguous()
    action = F.one_hot(torch.randint(5, (2, length), generator=rng), 5).float()
    return Batch({"image": image}, action, torch.zeros(2, length), first, last, no)


def paths(model: Odometer, batch: Batch) -> Rollout:
    """p walks as the true moves say and starts elsewhere in each episode; dp is what the odometer says."""
    length = batch.shape[1]
    p = torch.zeros(2, length, 3, dtype=torch.float64)
    for b in range(2):
        for t in range(1, length):
            jump = (
                torch.full((3,), 50.0).double() if batch.first[b, t] else batch.action[b, t - 1].double() @ model.moves
            )
            p[b, t] = p[b, t - 1] + jump
    dp = model.odometry(p[:, :-1], p[:, :-1], batch.action[:, :-1])
    return Rollout(batch, {"p": p, "dp": dp, "h": torch.zeros(2, length, 4).double()})


def joined(batch: Batch, b: int, t: int, k: int) -> bool:
    """Rows t .. t+k of window b lie in one episode."""
    return not any(batch.last[b, i] or batch.first[b, i + 1] for i in range(t, t + k))


@pytest.mark.parametrize("name", ["additivity_dp", "rollout_kstep_p"])
def test_a_perfect_odometer_costs_nothing(name: str) -> None:
    model = Odometer()
    assert term(name)(model, paths(model, flat())).item() == pytest.approx(0, abs=2e-12)  # the norm's own floor


def test_additivity_dp_counts_both_steps_errors() -> None:
    model = Odometer(0.3)
    # both steps are wrong by 0.3 in each of three coordinates: a length of 0.6 sqrt(3), whatever the window
    length = 0.6 * math.sqrt(3)
    assert term("additivity_dp")(model, paths(model, flat())).item() == pytest.approx(math.hypot(length, 0.5) - 0.5)


@pytest.mark.parametrize("steps", [2, 4, 30])
def test_rollout_kstep_p_is_the_mean_over_starts_and_lengths(steps: int) -> None:
    model, batch = Odometer(0.3), flat()
    roll = paths(model, batch)
    costs = []
    for b in range(2):
        for k in range(2, min(steps, 8) + 1):
            for t in range(9 - k):
                if joined(batch, b, t, k):
                    walked = roll.p[b, t] + sum(roll.dp[b, t + i] for i in range(k))
                    costs.append(torch.hypot((walked - roll.p[b, t + k]).norm(), torch.tensor(0.5)) - 0.5)
    loss = term("rollout_kstep_p")(model, roll, term("rollout_kstep_p").settings(steps=steps))
    torch.testing.assert_close(loss, torch.stack(costs).mean())


def test_action_delta_dp_is_robust_to_blocked_moves() -> None:
    model, batch = Odometer(), flat()
    batch = batch.replace(action=batch.action.double())
    roll = paths(model, batch)
    assert term("action_delta_dp")(model, roll).item() == pytest.approx(0, abs=1e-9)
    dp = roll.dp.clone()
    dp[0, 2] += torch.tensor([3.0, 4.0, 0.0])  # one step of 15 is off by 5
    loss = term("action_delta_dp")(model, Rollout(batch, {"dp": dp}), term("action_delta_dp").settings(eps=0.5))
    assert loss.item() == pytest.approx((math.hypot(5, 0.5) - 0.5) / 15)


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.4])
def test_scale_dp_is_a_trimmed_mean_over_moving_steps(trim: float) -> None:
    model, batch = Odometer(), flat()
    image = batch.obs["image"].clone()
    image[0, 3] = image[0, 2]  # a blocked step: it says nothing about the unit
    batch = batch.replace(obs={"image": image})
    roll = paths(model, batch)
    dp = roll.dp.clone()
    dp[0, 2], dp[1, 3] = 1e6, 1e6  # the blocked step and the one over the episode's end
    sizes = sorted(
        dp[b, t].norm().item() for b in range(2) for t in range(8) if joined(batch, b, t, 1) and (b, t) != (0, 2)
    )
    assert len(sizes) == 14
    cut = int(trim * 14)
    kept = sizes[cut : 14 - cut]
    loss = term("scale_dp")(model, Rollout(batch, {"p": roll.p, "dp": dp}), term("scale_dp").settings(trim=trim))
    assert loss.item() == pytest.approx((sum(kept) / len(kept) - 1) ** 2, rel=1e-6)


def test_scale_dp_where_nothing_moves_is_zero() -> None:
    model, batch = Odometer(), flat()
    batch = batch.replace(obs={"image": torch.zeros_like(batch.obs["image"])})
    loss = term("scale_dp")(model, paths(model, batch))
    loss.backward()
    assert loss == 0
    assert model.error.grad is not None
    assert model.error.grad.eq(0).all()


# --- actions


def test_action_error_is_torchs_cross_entropy() -> None:
    rng = generator()
    guess = torch.randn(4, 7, 5, generator=rng, dtype=torch.float64)
    index = torch.randint(5, (4, 7), generator=rng)
    ours = action_error(guess, F.one_hot(index, 5).double(), True)
    torch.testing.assert_close(ours, F.cross_entropy(guess.movedim(-1, 1), index, reduction="none"))
    other = torch.randn(4, 7, 5, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(action_error(guess, other, False), ((guess - other) ** 2).sum(-1))


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_inverse_dynamics_h_against_a_loop(actions: str) -> None:
    model, batch = tiny(spec=make_env(actions).spec), windows(1, actions=actions)[0]
    roll = model.observe(batch, {"h"}, generator())
    costs = []
    for b in range(6):
        for t in range(11):
            if joined(batch, b, t, 1):
                both = torch.cat([roll.h[b, t], model.z2h(roll.z_in[b, t + 1])])
                costs.append(action_error(model.inverse["h"](both), batch.action[b, t], actions == "discrete"))
    torch.testing.assert_close(term("inverse_dynamics_h")(model, roll), torch.stack(costs).mean())


@pytest.mark.parametrize("hold", ["change", "state"])
def test_action_delta_h_against_a_loop(hold: str) -> None:
    model, batch = tiny(), windows(1)[0]
    roll = model.observe(batch, {"h"}, generator())
    costs = [
        (model.delta_h(torch.cat([roll.h[b, t], batch.action[b, t]])) - roll.h[b, t + 1] + roll.h[b, t]).square().sum()
        for b in range(6)
        for t in range(11)
        if joined(batch, b, t, 1)
    ]
    cfg = replace(term("action_delta_h").settings(), hold=hold)
    torch.testing.assert_close(term("action_delta_h")(model, roll, cfg), torch.stack(costs).mean())
