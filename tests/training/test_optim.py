"""LaProp and adaptive clipping against formulas written out in float64; one optimiser for each part of a learner."""

import math

import pytest
import torch
import toy
from torch import nn

from isochrone.core.errors import UserError
from isochrone.training.config import TrainConfig
from isochrone.training.device import generator, launch
from isochrone.training.learner import Learner
from isochrone.training.optim import LaProp, OptimConfig, clip_adaptively
from isochrone.training.step import Stepper


def test_laprop_is_algorithm_1_of_ziyin_et_al():
    lr, beta1, beta2, eps, decay = 0.03, 0.8, 0.95, 1e-3, 0.1
    weight = nn.Parameter(torch.tensor([0.5, -2.0, 0.0]))
    grads = torch.randn(12, 3, generator=generator(0, "grads")) * torch.tensor([1.0, 1e-3, 10.0])
    optimizer = LaProp([weight], lr, (beta1, beta2), eps, decay)
    w, n, m = weight.detach().double().tolist(), [0.0] * 3, [0.0] * 3
    for t, grad in enumerate(grads, 1):
        weight.grad = grad.clone()
        optimizer.step()
        for i, g in enumerate(grad.double().tolist()):
            n[i] = beta2 * n[i] + (1 - beta2) * g * g
            m[i] = beta1 * m[i] + (1 - beta1) * g / (math.sqrt(n[i] / (1 - beta2**t)) + eps)
            w[i] = (1 - lr * decay) * w[i] - lr * m[i] / (1 - beta1**t)
        torch.testing.assert_close(weight.detach().double(), torch.tensor(w).double(), rtol=1e-5, atol=1e-6)


def test_laprop_skips_a_weight_without_a_gradient():
    moved, left = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LaProp([moved, left], weight_decay=0.5)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(left.detach(), torch.ones(2))
    assert (moved < 1).all()


@pytest.mark.parametrize(("weight_norm", "grad_norm"), [(2.0, 5.0), (2.0, 0.1), (0.0, 1.0), (1e-5, 1.0)])
def test_adaptive_clipping_bounds_each_gradient(weight_norm: float, grad_norm: float):
    rng, limit = generator(0, "clip"), 0.3
    direction, slope = (torch.randn(4, 3, generator=rng).double() for _ in range(2))
    weight = nn.Parameter((direction / direction.norm() * weight_norm).float())
    grad = slope / slope.norm() * grad_norm
    weight.grad = grad.float()
    clip_adaptively([weight, nn.Parameter(torch.ones(2))], limit)
    bound = limit * max(weight_norm, 1e-3)
    torch.testing.assert_close(weight.grad.double(), grad * min(1.0, bound / grad_norm), rtol=1e-5, atol=1e-9)


class Pair(nn.Module):
    """A world model and an actor, each with a quadratic loss."""

    def __init__(self) -> None:
        super().__init__()
        self.learner = Learner({"model": toy.ToyModel(), "actor": nn.Linear(4, 2)})

    def forward(self, batch, rng):
        state = batch.obs["state"]
        loss = self.learner.model.enc(state).square().mean() + 100 * self.learner.actor(state).square().mean()
        return loss, {}


def stepper(optim, objective=None):
    config = TrainConfig(steps=10, accelerator="cpu")
    return Stepper(objective or Pair(), config, optim, launch(config))


def test_each_part_has_its_own_optimiser_schedule_and_clip():
    optim = {"model": OptimConfig(lr=0.1, clip=0.5), "actor": OptimConfig("laprop", lr=0.01, warmup=4, clip=1.0)}
    made = stepper(optim)
    metrics = made(toy.sample(generator(0, "sample")), generator(0, "loss"))
    assert made.rates() == {"lr": 0.1, "lr/actor": 0.0025}
    assert isinstance(made.optimizers["actor"].optimizer, LaProp)
    norms = [metrics["grad_norm/model"], metrics["grad_norm/actor"]]
    torch.testing.assert_close(metrics["grad_norm"], torch.stack(norms).norm())
    assert norms[1] > 1
    for part, bound in (("model", min(0.5, float(norms[0]))), ("actor", 1.0)):
        grads = [w.grad.flatten() for w in made.optimizers[part].weights() if w.grad is not None]
        assert float(torch.cat(grads).norm()) == pytest.approx(bound, rel=1e-4)


def test_both_optimisers_continue_from_a_checkpoint():
    optim = {"model": OptimConfig(lr=0.1), "actor": OptimConfig("laprop", lr=0.01, agc=0.3)}
    batches = [toy.sample(generator(n, "sample")) for n in range(6)]
    whole, first, second = stepper(optim), stepper(optim), stepper(optim)
    second.learner.load_state_dict(first.learner.state_dict())
    whole.learner.load_state_dict(first.learner.state_dict())
    for batch in batches:
        whole(batch, generator(0, "loss"))
    for batch in batches[:3]:
        first(batch, generator(0, "loss"))
    second.learner.load_state_dict(first.learner.state_dict())
    second.restore(first.state())
    for batch in batches[3:]:
        second(batch, generator(0, "loss"))
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, second.learner.state_dict()[name]), name


def test_parts_and_settings_must_agree():
    with pytest.raises(UserError, match="part 'actor' is trained but has no optimiser settings: set optim.actor.lr"):
        stepper({"model": OptimConfig()})
    with pytest.raises(UserError, match="optim.acter: this learner has no part 'acter'; did you mean 'actor'"):
        stepper({"model": OptimConfig(), "actor": OptimConfig(), "acter": OptimConfig()})


def test_a_learner_is_a_partition_of_named_parts():
    learner = Learner({"actor": nn.Linear(2, 2), "model": toy.ToyModel()})
    assert list(learner.parts) == ["model", "actor"]
    assert list(learner.groups()) == ["z", "dyn", "actor"]
    learner.after_step()
    assert learner.model.seen == 1
    with pytest.raises(ValueError, match="needs a part 'model'"):
        Learner({"actor": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="two parts of the learner have a group 'dyn'"):
        Learner({"model": toy.ToyModel(), "dyn": nn.Linear(2, 2)})
    shared = toy.ToyModel()
    with pytest.raises(ValueError, match="a parameter is in 'z' and in 'actor'"):
        Learner({"model": shared, "actor": nn.Sequential(shared.enc)})
