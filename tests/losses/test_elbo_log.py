"""What is logged of the ELBO is the ELBO, whatever the losses weigh; and masked rows have no effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tinymodel import counted, counter, generator, objective, tiny
from torch.distributions import Normal, kl_divergence

from isochrone.losses.elbo import Kl, Pyramid, Scale
from isochrone.losses.loss import LossConfig
from isochrone.losses.reductions import masked_mean

KLS = [
    Kl(),
    Kl(dyn=0.5, rep=0.5),
    Kl(dyn=0.5, rep=0.5000001),
    Kl(dyn=0.5, rep=0.1, free=1.0),
    Kl(free=3.0, averaged=True),
]


def logged(kl: Kl, reward: float = 1.0, levels: int = 1) -> tuple[Any, dict[str, float], Any]:
    model, batch = tiny("rssm", counter().spec, decode_rows=0), counted(1)[0]
    losses = {
        "image": LossConfig(3.0, settings=Pyramid(levels=levels)),
        "vectors": LossConfig(),
        "reward": LossConfig(2.0, settings=Scale(reward)),
        "kl": LossConfig(0.5, settings=kl),
    }
    metrics = objective(model, losses)(batch, generator(7))[1]
    needs = {"target", "image_hat", "vectors_hat", "reward_hat", "posterior", "prior"}
    with torch.no_grad():
        return batch, {k: float(v) for k, v in metrics.items()}, model.observe(batch, needs, generator(7))


@pytest.mark.parametrize("kl", KLS, ids=str)
def test_the_logged_nats_add_up_to_the_elbo_per_row(kl: Kl) -> None:
    """Against torch.distributions, with first rows inside the windows, under every weighting."""
    batch, log, rollout = logged(kl, reward=10.0)
    assert bool(batch.first[:, 1:].any())
    q, p = (Normal(x.mean, x.std) for x in (rollout.posterior, rollout.prior))
    nats = {"kl": kl_divergence(q, p).sum(-1).mean()}
    pairs = {"image": rollout.image_hat, **rollout.vectors_hat}
    squares = {n: 0.5 * (rollout.target[n] - x).square().flatten(2).sum(-1).mean() for n, x in pairs.items()}
    nats["image"] = squares.pop("image")
    nats["vectors"] = torch.stack(list(squares.values())).sum()
    reward = 0.5 * (rollout.reward_hat.reshape(batch.shape) - batch.reward).square()
    nats["reward"] = torch.where(batch.first, 0.0, reward).mean()
    for name, value in nats.items():
        assert log[f"nats/{name}"] == pytest.approx(float(value), rel=1e-4), name
    assert log["elbo"] == pytest.approx(-sum(float(x) for x in nats.values()), rel=1e-4)


def test_coarser_levels_of_the_image_are_no_part_of_an_elbo() -> None:
    log = logged(Kl(), levels=2)[1]
    assert "elbo" not in log
    assert "nats/image" not in log
    assert "nats/kl" in log


def test_what_is_masked_has_no_effect_on_value_and_gradient() -> None:
    x = torch.tensor([1.0, float("nan"), 3.0, float("inf")], requires_grad=True)
    mean = masked_mean(x, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean == 2
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0, 0.5, 0]
