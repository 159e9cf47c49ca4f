"""As outside code: an actor trained by REINFORCE in imagination, beside a world model, in the gradient contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tinymodel import counted, counter, generator, tiny
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.losses.loss import LossConfig, loss
from isochrone.losses.objective import TrainingObjective
from isochrone.losses.routes import check_routes
from isochrone.training import checkpoint
from isochrone.training.config import TrainConfig
from isochrone.training.device import launch
from isochrone.training.learner import Learner
from isochrone.training.optim import LaProp, OptimConfig
from isochrone.training.step import Stepper


class Actor(nn.Module):
    """A categorical policy on h and z."""

    horizon = 4

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, 16), nn.SiLU(), nn.Linear(16, actions))

    def logits(self, state: Any) -> Tensor:
        return self.net(torch.cat([state.h, state.z], -1)).log_softmax(-1)

    def forward(self, state: Any, rng: torch.Generator | None = None) -> Tensor:
        logits = self.logits(state)
        index = torch.multinomial(logits.exp(), 1, generator=rng)[:, 0]
        return nn.functional.one_hot(index, logits.shape[-1]).to(logits.dtype)


@loss("reinforce", updates={"actor"}, reads={"imagined"}, uses={"actor", "model.rewards"}, source="Williams 1992")
def reinforce(model, rollout, settings, actor) -> Tensor:
    """-log pi(a | s) times the return that follows, less its batch mean: mean over rows and steps."""
    start, states, actions = rollout.imagined.start, rollout.imagined.states, rollout.imagined.actions
    before = type(start).cat([start[:, None], states[:, :-1]], 1)
    rewards = stop_gradient(model.rewards(states), "the score function needs no gradient of the reward")
    returns = rewards.flip(1).cumsum(1).flip(1)  # (B*T, H)
    return -((actor.logits(before) * actions).sum(-1) * (returns - returns.mean(0))).mean()


@loss("entropy", updates={"actor"}, reads={"imagined"}, uses={"actor"}, source="Williams and Peng 1991")
def entropy(model, rollout, settings, actor) -> Tensor:
    """Minus the entropy of the policy on imagined states."""
    logits = actor.logits(rollout.imagined.states)
    return (logits.exp() * logits).sum(-1).mean()


# as an entry point of an installed package would be: known here, and to no other test
OUTSIDE = {name: registry._components["loss"].pop(name) for name in ("reinforce", "entropy")}


@pytest.fixture(autouse=True)
def outside_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, declared in OUTSIDE.items():
        monkeypatch.setitem(registry._components["loss"], name, declared)


LOSSES = ("image", "vectors", "reward", "kl", "reinforce", "entropy")
OPTIM = {"model": OptimConfig(lr=1e-3), "actor": OptimConfig("laprop", lr=1e-2, agc=0.3, clip=0.0, eps=1e-20)}


def make() -> TrainingObjective:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = Learner({"model": tiny("rssm", counter().spec), "actor": Actor(16 + 5, counter().spec.action.size)})
    return TrainingObjective(learner, {name: LossConfig() for name in LOSSES})


def test_actor_losses_move_the_actor_alone() -> None:
    objective = make()
    learner = objective.learner
    groups = learner.groups()
    assert list(groups)[-1] == "actor"
    losses = {
        name: (
            lambda b, name=name: objective.values(b, generator(), [name], probe=True)[name],
            made.declared(groups),
        )
        for name, made in objective.losses.items()
    }
    report = check_routes(groups, losses, counted(), learner)
    assert report.violations() == []
    for name in ("reinforce", "entropy"):
        assert {group for group, norm in report.moved[name].items() if norm > 0} == {"actor"}
    assert all(report.moved[name]["actor"] == 0 for name in ("image", "reward", "kl"))


def test_one_imagined_rollout_is_shared(monkeypatch) -> None:
    objective, calls = make(), []
    imagine = objective.model.imagine_policy
    monkeypatch.setattr(objective.model, "imagine_policy", lambda *args: calls.append(args) or imagine(*args))
    objective(counted()[0], generator())
    assert [call[2] for call in calls] == [Actor.horizon]


def test_the_actor_has_an_optimiser_and_is_saved(tmp_path) -> None:
    objective, config = make(), TrainConfig(steps=4, accelerator="cpu")
    stepper = Stepper(objective, config, OPTIM, launch(config))
    before = {name: value.clone() for name, value in objective.learner.state_dict().items()}
    for batch in counted(3):
        metrics = stepper(batch, generator())
    assert {"loss/reinforce", "grad_norm/model", "grad_norm/actor"} <= set(metrics)
    assert isinstance(stepper.optimizers["actor"].optimizer, LaProp)
    assert not torch.equal(before["actor.net.0.weight"], objective.learner.actor.net[0].weight)
    folder = checkpoint.save(tmp_path, 3, objective.learner, stepper.state())
    other = make()
    again = Stepper(other, config, OPTIM, launch(config))
    step, state = checkpoint.load(folder, other.learner)
    again.restore(state)
    assert step == 3
    for made in (stepper, again):
        made(counted()[0], generator(7))
    for name, value in objective.learner.state_dict().items():
        assert torch.equal(value, other.learner.state_dict()[name]), name


def test_a_learner_without_an_actor_is_refused_in_one_sentence() -> None:
    learner = Learner({"model": tiny("rssm", counter().spec)})
    with pytest.raises(UserError, match="'reinforce' reads what a policy imagines, but no part of the learner is"):
        TrainingObjective(learner, {"reinforce": LossConfig()})
