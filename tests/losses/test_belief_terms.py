"""The ELBO's terms and overshooting by their formulas: reductions, free nats, balance, rows that count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tinymodel import counted, counter, generator, objective, tiny, weighted, windows
from torch import Tensor, nn
from torch import distributions as td

from isochrone.core import registry
from isochrone.core.types import Rollout
from isochrone.losses.elbo import half_squared_error
from isochrone.nets.distributions import Normal

KL = registry.get("loss", "kl")


def rolled(model: Any, *fields: str, seed: int = 0) -> Rollout:
    return model.observe(windows(1)[0], set(fields), generator(seed))


def beliefs(shape: tuple[int, ...], seed: int) -> Normal:
    draw = torch.randn(2, *shape, generator=generator(seed), dtype=torch.float64)
    return Normal(draw[0].requires_grad_(), draw[1].exp().detach().requires_grad_())


def kl_of(q: Normal, p: Normal, **settings: Any) -> Tensor:
    roll = Rollout(windows(1, *q.mean.shape[:2])[0], {"posterior": q, "prior": p})
    return KL(nn.Identity(), roll, KL.settings(**settings))


def rows(q: Normal, p: Normal) -> Tensor:
    """(B, T) nats, by torch."""
    return td.kl_divergence(td.Normal(q.mean, q.std), td.Normal(p.mean, p.std)).sum(-1)


def test_likelihood_reductions() -> None:
    model = tiny("rssm")
    roll = model.observe(windows(1)[0], {"target", "image_hat", "continue_hat", "reward_hat"})
    image = roll.target["image"]
    unit = td.Normal(roll.image_hat, torch.ones_like(image))
    constant = 0.5 * image[0, 0].numel() * torch.log(torch.tensor(2 * torch.pi))
    by_hand = -unit.log_prob(image).sum((2, 3, 4)).mean() - constant
    torch.testing.assert_close(registry.get("loss", "image")(model, roll), by_hand, rtol=1e-4, atol=0.05)
    odds = td.Bernoulli(logits=roll.continue_hat[..., 0])
    expected = -odds.log_prob(1 - roll.batch.terminal.float()).mean()
    torch.testing.assert_close(registry.get("loss", "continue")(model, roll), expected)


def test_the_reward_counts_where_one_was_received() -> None:
    """A first row has no reward; the counting env pays t + a / 10 on every other."""
    model, batch = tiny("rssm", counter().spec), counted(1)[0]
    assert bool(batch.first.any())
    assert not bool((batch.reward[batch.first] != 0).any())
    roll = model.observe(batch, {"reward_hat", "feat"}, generator())
    guess = model.reward_head.mean(roll.reward_hat)
    squares = (0.5 * (guess - batch.reward) ** 2)[~batch.first]
    term = registry.get("loss", "reward")
    torch.testing.assert_close(term(model, roll), squares.mean())
    torch.testing.assert_close(term(model, roll, term.settings(scale=10.0)), 10 * squares.mean())


def test_terminal_rows_are_where_the_episode_ends_for_good() -> None:
    batch = counted(1)[0]
    assert bool(batch.terminal.any()), "both kinds of ends"
    assert bool((batch.last & ~batch.terminal).any()), "both kinds of ends"


@pytest.mark.parametrize(("dyn", "rep"), [(1.0, 1.0), (0.8, 0.2), (1.0, 0.1), (0.5, 0.5)])
def test_balance_is_two_one_sided_gradients(dyn: float, rep: float) -> None:
    q, p = beliefs((6, 12, 5), 0), beliefs((6, 12, 5), 1)
    ours = torch.autograd.grad(kl_of(q, p, dyn=dyn, rep=rep), [q.mean, q.std, p.mean, p.std])
    whole = torch.autograd.grad(rows(q, p).mean(), [q.mean, q.std, p.mean, p.std])
    for grad, full, weight in zip(ours, whole, (rep, rep, dyn, dyn), strict=True):
        torch.testing.assert_close(grad, weight * full, atol=1e-12, rtol=1e-9)


def test_free_nats_per_row_or_on_the_mean() -> None:
    q, p = beliefs((6, 12, 5), 0), beliefs((6, 12, 5), 1)
    nats = rows(q, p)
    free = nats.median().item()
    torch.testing.assert_close(kl_of(q, p, free=free), nats.clamp_min(free).mean())
    torch.testing.assert_close(kl_of(q, p, free=free, averaged=True), nats.mean().clamp_min(free))
    (pull,) = torch.autograd.grad(kl_of(q, p, free=free), q.mean)
    assert torch.equal(pull.abs().sum(-1) > 0, nats >= free), "rows below the free nats cost and pull nothing"
    asleep = kl_of(q, p, free=2 * nats.mean().item(), averaged=True)
    assert asleep.item() == pytest.approx(2 * nats.mean().item())
    assert not torch.autograd.grad(asleep, q.mean)[0].any()


def test_planets_clipping_has_the_same_gradient() -> None:
    """max(0, KL - 3) of PlaNet's code against max(3, KL) here."""
    q, p = beliefs((6, 12, 5), 0), beliefs((6, 12, 5), 1)
    ours = torch.autograd.grad(kl_of(q, p, free=3.0), [q.mean, p.std])
    theirs = torch.autograd.grad((rows(q, p) - 3).clamp_min(0).mean(), [q.mean, p.std])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_global_prior_is_the_standard_one() -> None:
    roll = rolled(tiny("rssm"), "posterior")
    q = roll.posterior
    unit = td.Normal(torch.zeros_like(q.mean), torch.ones_like(q.std))
    expected = td.kl_divergence(td.Normal(q.mean, q.std), unit).sum(-1).mean()
    torch.testing.assert_close(registry.get("loss", "kl_global")(nn.Identity(), roll), expected)


# --- overshooting


def test_overshooting_is_its_double_sum() -> None:
    """Eq. 7 by loops: from every posterior, d = 2..D imagined steps, the KL of the posterior there, in its episode."""
    model = tiny("rnn", rollout_starts=0, overshoot=4)
    batch = windows(1)[0]
    roll = model.observe(batch, {"posterior", "overshoot", "feat", "frames"}, generator())
    joint, size = batch.connected(1), model.latent.size
    z, h = roll.feat[..., :size], roll.feat[..., size:]
    costs, images = [], []
    for b in range(6):
        for t in range(11):
            now = (h[b : b + 1, t], z[b : b + 1, t])
            for d in range(1, 5):
                if t + d > 11 or not bool(joint[b, t : t + d].all()):
                    break
                memory = model.dynamics(*now, model.dynamics.precompute(batch.action[b : b + 1, t + d - 1]))
                now = (memory, model.prior(memory))
                shown = model.decoder.image(torch.cat([now[1], now[0]], -1))
                images.append(0.5 * (shown[0] - roll.frames[b, t + d]).square().sum())
                if d > 1:
                    costs.append(0.5 * (roll.posterior.mean[b, t + d] - now[1][0]).square().sum())
    term = registry.get("loss", "overshoot_kl")
    torch.testing.assert_close(term(model, roll), torch.stack(costs).mean())
    torch.testing.assert_close(registry.get("loss", "overshoot_image")(model, roll), torch.stack(images).mean())
    free = torch.stack(costs).clamp_min(0.3).mean()
    torch.testing.assert_close(term(model, roll, term.settings(free=0.3, dyn=2.0)), 2 * free)


def test_overshot_rewards_are_those_of_the_foretold_rows() -> None:
    model, batch = tiny("rnn", counter().spec, rollout_starts=0, overshoot=2), counted(1)[0]
    roll = model.observe(batch, {"overshoot"}, generator())
    joint = batch.connected(1)
    costs = []
    for b in range(6):
        for t in range(11):
            for d in (1, 2):
                if t + d <= 11 and bool(joint[b, t : t + d].all()):
                    out = model.reward_head(roll.overshoot.feat[b, t, d - 1])
                    costs.append(0.5 * (out[0] - batch.reward[b, t + d]).square())
    torch.testing.assert_close(registry.get("loss", "overshoot_reward")(model, roll), torch.stack(costs).mean())


def test_overshooting_stops_only_the_targets() -> None:
    """The gradient of overshooting goes through the imagined path back into the posterior it began from."""
    model = tiny("rssm", overshoot=3, rollout_starts=0)
    total = objective(model, weighted(overshoot_kl=1.0))
    total(windows(1)[0], generator())[0].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.groups()["posterior"])
    assert all(p.grad is None for p in model.groups()["decoder"])


def test_losses_of_an_environment_with_vectors_only() -> None:
    spec = replace(counter().spec, obs={"state": (4,)})
    with pytest.raises(Exception, match=r"loss 'image' reads \['image_hat'\], but model 'rssm' provides"):
        objective(tiny("rssm", spec), weighted(image=1.0))
    batch = counted(1)[0]
    only = batch.replace(obs={"state": batch.obs["state"]})
    loss, _ = objective(tiny("rssm", spec), weighted(vectors=1.0, kl=1.0))(only, generator())
    assert torch.isfinite(loss)


def test_half_squares_have_their_gradient_in_one_node() -> None:
    seen, shown = (torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: half_squared_error(a, b), (seen, shown))
    assert torch.autograd.gradcheck(lambda a: half_squared_error(a, shown.detach(), 3), (seen,))
    torch.testing.assert_close(half_squared_error(seen, shown), 0.5 * (seen - shown).square().sum((2, 3)))


def test_coarser_levels_of_an_image_tell_near_from_far() -> None:
    """A box one step off costs as much as one at the far end, until it is seen from afar."""
    term = registry.get("loss", "image")
    one = torch.zeros(1, 1, 3, 64, 64)
    one[..., 0:4, 0:4] = 1
    near, far = (one.roll(k, -1) for k in (4, 48))

    def cost(shown: Tensor, levels: int) -> float:
        roll = Rollout(windows(1)[0], {"target": {"image": one}, "image_hat": shown}, generator(0))
        return float(term(nn.Identity(), roll, term.settings(levels=levels, rise=2.0)))

    assert cost(one, 6) == 0
    assert cost(near, 1) == cost(far, 1) == 48
    assert cost(near, 6) < 0.8 * cost(far, 6)
    flat = one + 0.5  # off by a constant: every level has the same energy
    assert cost(flat, 2) == pytest.approx(3 * cost(flat, 1), rel=1e-5)
