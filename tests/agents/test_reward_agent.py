"""Planning for reward in a belief: where the reward is known, with noise where it explores, refused where it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tinymodel import generator, tiny, windows
from torch import Tensor, nn

from isochrone.agents.mpc import MPC
from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Struct
from isochrone.planners.cem import CEM

SPACE = ActionSpec("continuous", 2)


@dataclass(frozen=True)
class Dot(Struct):
    """A point in the plane."""

    at: Tensor

    def feat(self) -> Tensor:
        return self.at


class Plane(nn.Module):
    """Actions move the point; reward is minus the distance to (1, -1)."""

    is_stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[Any] = []

    def start(self, batch: int) -> Dot:
        return Dot(torch.zeros(batch, 2))

    def update(self, state: Dot, action: Tensor, obs: Any, rng: torch.Generator | None = None) -> Dot:
        self.seeds.append(rng)
        return Dot(obs["at"])

    def imagine(self, state: Dot, actions: Tensor, rng: Any = None, shared_noise: bool = False) -> Dot:
        self.seeds.append(rng)
        return Dot(state.at[:, None, None] + (0.3 * actions).cumsum(2))

    def rewards(self, state: Dot) -> Tensor:
        return -(state.at - torch.tensor([1.0, -1.0])).norm(dim=-1)


def agent(model: Any, **settings: Any) -> MPC:
    planner = CEM(CEM.Config(horizon=6, candidates=200, iterations=5, elites=20), SPACE)
    return MPC(model, MPC.Config(objective="reward", **settings), planner)


def test_it_walks_to_where_the_reward_is() -> None:
    model = Plane()
    mpc, at = agent(model), torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    carry = mpc.start(2, rng=generator())
    assert not mpc.needs_goal
    assert carry.goal is None
    for _ in range(14):
        action, carry, _ = mpc.act({"at": at}, carry)
        at = at + 0.3 * action
    assert ((at - torch.tensor([1.0, -1.0])).norm(dim=-1) < 0.2).all()
    assert all(seed is carry.rng for seed in model.seeds), "what the model draws, it draws from the agent's generator"


def test_without_draws_it_plans_on_modes_and_filters_as_before() -> None:
    model = Plane()
    mpc = agent(model, sample_futures=False)
    carry = mpc.start(1, rng=generator())
    _, carry, _ = mpc.act({"at": torch.zeros(1, 2)}, carry)
    assert model.seeds[0] is carry.rng
    assert set(model.seeds[1:]) == {None}
    assert len(model.seeds) > 1


def test_exploring_adds_noise_of_the_spread_it_says_and_stays_legal() -> None:
    mpc = agent(Plane(), explore=0.0, noise=0.3)
    at = torch.tensor([[1.0, -1.0]]).expand(300, 2)  # at the goal: the best action is about zero
    plain, _, _ = mpc.act({"at": at}, mpc.start(300, rng=generator(1)), "eval")
    noisy, _, _ = mpc.act({"at": at}, mpc.start(300, rng=generator(1)), "train")
    assert (noisy - plain).std().item() == pytest.approx(0.3, abs=0.03)
    assert SPACE.contains(noisy)


def test_a_model_without_rewards_or_without_distances_is_refused_with_a_mend() -> None:
    with pytest.raises(UserError, match=r"agent\.objective = reward: model 'zhp' predicts no rewards; .*model = rssm"):
        MPC(tiny("zhp"), MPC.Config(objective="reward"))
    with pytest.raises(
        UserError, match=r"agent\.objective = p: model 'rssm' has no distance; set agent\.objective = reward"
    ):
        MPC(tiny("rssm"))


@pytest.mark.parametrize("name", ["rnn", "ssm", "rssm"])
def test_every_state_space_model_is_planned_in(name: str) -> None:
    """Discrete actions go through the categorical proposal of the same planner."""
    model, obs = tiny(name), {"image": windows(1)[0].obs["image"][:, 0]}
    planner = CEM.Config(horizon=4, candidates=12, iterations=2, elites=3)
    mpc = MPC(model, MPC.Config(planner, objective="reward", use_continue=True, discount=0.9))
    carry = mpc.start(6, rng=generator())
    first, carry, _ = mpc.act(obs, carry)
    carry = mpc.restart(carry, torch.tensor([True, False] * 3))
    again, carry, info = mpc.act(obs, carry)
    assert model.action.contains(first)
    assert model.action.contains(again)
    assert info["replanned"]
    repeat, _, _ = mpc.act(obs, mpc.start(6, rng=generator()))
    assert torch.equal(first, repeat), "same generator, same plan"
