"""Continuous actions against the closed-form optimum of a double integrator."""

import pytest
import torch

from isochrone.planners.cem import CEM
from isochrone.planners.gradient import Gradient
from isochrone.planners.shooting import Shooting

START = torch.tensor([[0.8, -0.2], [-0.5, 0.4], [0.1, 0.1]])  # (B, 2) near enough that the box does not bind
HORIZON = 6


def test_the_optimum_lies_inside_the_box(cart):
    assert cart.action.contains(cart.best(START, HORIZON)[0])


@pytest.mark.parametrize("output", ["best", "mean"])
def test_cem_finds_the_optimum(cart, place, rng, output):
    config = CEM.Config(horizon=HORIZON, candidates=256, iterations=25, elites=24, min_spread=0.005, output=output)
    plan = CEM(config, cart.action).plan(cart.imagine, place(START), cart.cost, None, rng)
    actions, cost = cart.best(START, HORIZON)
    assert (plan.cost <= cost * 1.005 + 1e-4).all()
    torch.testing.assert_close(plan.actions, actions, atol=0.05, rtol=0)
    torch.testing.assert_close(
        cart.cost(cart.imagine(place(START), plan.actions[:, None]), plan.actions[:, None])[:, 0], plan.cost
    )


def test_gradient_finds_the_optimum(cart, place, rng):
    config = Gradient.Config(horizon=HORIZON, iterations=150, restarts=3, rate=0.05)
    plan = Gradient(config, cart.action).plan(cart.imagine, place(START), cart.cost, None, rng)
    actions, cost = cart.best(START, HORIZON)
    assert (plan.cost <= cost * 1.002 + 1e-4).all()
    torch.testing.assert_close(plan.actions, actions, atol=0.03, rtol=0)


def test_gradient_stays_in_the_box_where_the_optimum_is_outside(cart, place, rng):
    far = torch.tensor([[6.0, 3.0]])
    assert not cart.action.contains(cart.best(far, HORIZON)[0])
    config = Gradient.Config(horizon=HORIZON, iterations=120, restarts=3)
    plan = Gradient(config, cart.action).plan(cart.imagine, place(far), cart.cost, None, rng)
    assert cart.action.contains(plan.actions)
    boxed = far_optimum(cart, place, far)
    assert plan.cost.item() <= boxed * 1.002


def far_optimum(cart, place, start):
    """Projected gradient descent with a tiny step: slow, and certain, for a convex problem."""
    actions = torch.zeros(1, 1, HORIZON, 1)
    for _ in range(1200):
        actions = actions.requires_grad_(True)
        (slope,) = torch.autograd.grad(cart.cost(cart.imagine(place(start), actions), actions).sum(), actions)
        actions = (actions.detach() - 0.006 * slope).clamp(-1, 1)
    return cart.cost(cart.imagine(place(start), actions), actions).item()


def test_shooting_is_better_than_no_action_and_worse_than_the_optimum(cart, place, rng):
    plan = Shooting(Shooting.Config(horizon=HORIZON, candidates=2000), cart.action).plan(
        cart.imagine, place(START), cart.cost, None, rng
    )
    rest = cart.cost(cart.imagine(place(START), torch.zeros(3, 1, HORIZON, 1)), torch.zeros(3, 1, HORIZON, 1))[:, 0]
    assert (plan.cost >= cart.best(START, HORIZON)[1] - 1e-5).all()
    assert (plan.cost[:2] < rest[:2]).all()


def test_hold_steps_repeats_each_action(cart, place, rng):
    plan = Shooting(Shooting.Config(horizon=5, candidates=64, hold_steps=2), cart.action).plan(
        cart.imagine, place(START), cart.cost, None, rng
    )
    assert plan.actions.shape == (3, 5, 1)
    assert torch.equal(plan.actions[:, 0], plan.actions[:, 1])
    assert torch.equal(plan.actions[:, 2], plan.actions[:, 3])


def test_the_chunk_size_changes_nothing(cart, place):
    plans = [
        CEM(CEM.Config(horizon=4, candidates=50, iterations=3, elites=5, chunk=chunk), cart.action).plan(
            cart.imagine, place(START), cart.cost, None, torch.Generator().manual_seed(3)
        )
        for chunk in (7, 10_000)
    ]
    assert torch.equal(plans[0].actions, plans[1].actions)
