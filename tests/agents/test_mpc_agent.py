"""MPC in a small world model: a plane seen through its coordinates, with a velocity that only filtering reveals."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from isochrone.agents.mpc import MPC
from isochrone.core.errors import UserError
from isochrone.core.protocols import AgentComponent
from isochrone.core.types import ActionSpec, Struct
from isochrone.planners.cem import CEM
from isochrone.planners.cost import ReachCost
from isochrone.planners.gradient import Gradient

BOX = ActionSpec("continuous", 2)
GRID = ActionSpec("discrete", 5, noop=4)
MOVES = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])


@dataclass(frozen=True)
class Belief(Struct):
    p: Tensor  # (..., 2)
    seen: Tensor  # (...,) how many observations were filtered in
    led: Tensor  # (..., A) the action that led here

    def feat(self) -> Tensor:
        return self.p


class Plane(nn.Module):
    is_stochastic = False

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.action, self.gain = action, nn.Parameter(torch.ones(2))
        self.flags: list[bool] = []

    def start(self, batch: int) -> Belief:
        return Belief(torch.full((batch, 2), torch.nan), torch.zeros(batch), torch.zeros(batch, self.action.size))

    def update(self, state: Belief, action: Tensor, obs: dict[str, Tensor]) -> Belief:
        return Belief(obs["state"], state.seen + 1, action)

    def imagine(self, state: Belief, actions: Tensor) -> Belief:
        self.flags.append(self.gain.requires_grad)
        moves = MOVES if self.action.discrete else torch.eye(2)
        p = state.p[:, None, None] + (actions @ moves * self.gain).cumsum(2)
        return Belief(p, state.seen[:, None, None].expand(p.shape[:3]), actions)

    def distance(self, states: Belief, goal: Belief, space: str) -> Tensor:
        assert space in ("p", "z", "mixed")
        return (states.p - goal.p).abs().sum(-1)


def move(place: Tensor, action: Tensor) -> Tensor:
    return place + action @ (MOVES if action.shape[-1] == 5 else torch.eye(2))


def agent(action: ActionSpec = GRID, cost=None, horizon: int = 4, **options) -> MPC:
    planner = CEM(CEM.Config(horizon=horizon, candidates=200, iterations=6, elites=20), action)
    return MPC(Plane(action), MPC.Config(**options), planner, cost)


def drive(mpc: MPC, start: Tensor, goal: Tensor, steps: int, seed: int = 0):
    carry = mpc.start(len(start), {"state": goal}, torch.Generator().manual_seed(seed))
    track, infos, place = [start], [], start
    for _ in range(steps):
        action, carry, info = mpc.act({"state": place}, carry)
        assert mpc.action.contains(action)
        place = move(place, action)
        track.append(place)
        infos.append(info)
    return torch.stack(track, 1), infos, carry


START = torch.tensor([[0.0, 0.0], [5.0, 5.0], [-3.0, 1.0]])
GOAL = torch.tensor([[3.0, 3.0], [5.0, 1.0], [-3.0, 1.0]])  # six, four and no actions away


@pytest.mark.parametrize("replan_every", [1, 2, 4])
def test_each_row_reaches_its_own_goal_by_a_shortest_path_and_stays(replan_every):
    track, infos, _ = drive(agent(replan_every=replan_every), START, GOAL, 8)
    arrival = [(torch.isclose(t, g).all(-1)).nonzero()[0].item() for t, g in zip(track, GOAL, strict=True)]
    assert arrival == [6, 4, 0]
    assert torch.equal(track[:, -1], GOAL)
    assert [i["replanned"] for i in infos] == [t % replan_every == 0 for t in range(8)]
    assert [i["evaluations"] > 0 for i in infos] == [i["replanned"] for i in infos]


def test_continuous_actions_by_gradient():
    planner = Gradient(Gradient.Config(horizon=4, iterations=60), BOX)
    track, _, _ = drive(MPC(Plane(BOX), planner=planner), START[:2], GOAL[:2], 6)
    assert (track[:, -1] - GOAL[:2]).abs().max() < 0.3


def test_the_model_hears_the_action_that_led_to_each_observation():
    mpc = agent()
    carry = mpc.start(3, {"state": GOAL})
    led, place = [], START
    for _ in range(3):
        action, carry, _ = mpc.act({"state": place}, carry)
        led.append((carry.state.led, action))
        place = move(place, action)
    assert torch.equal(led[0][0], GRID.idle((3,)))  # nothing was done before the first look
    assert torch.equal(led[1][0], led[0][1])
    assert torch.equal(led[2][0], led[1][1])
    assert (carry.state.seen == 3).all()
    assert (carry.goal.seen == 1).all()


def test_weights_are_held_while_planning_and_free_afterwards():
    mpc = agent()
    drive(mpc, START, GOAL, 2)
    assert mpc.model.flags
    assert not any(mpc.model.flags)
    assert mpc.model.gain.requires_grad
    assert mpc.model.gain.grad is None


def test_weights_are_free_again_after_a_failure():
    mpc = agent(cost=ReachCost(lambda s, g: torch.zeros(1)))
    with pytest.raises(UserError):
        mpc.act({"state": START}, mpc.start(3, {"state": GOAL}))
    assert mpc.model.gain.requires_grad


def test_the_seed_decides_and_the_carry_is_not_changed():
    first, again = drive(agent(), START, GOAL, 4, seed=3)[0], drive(agent(), START, GOAL, 4, seed=3)[0]
    assert torch.equal(first, again)
    mpc = agent(replan_every=4)
    _, carry, _ = mpc.act({"state": START}, mpc.start(3, {"state": GOAL}))
    before = carry.plan.actions.clone()
    one, _, _ = mpc.act({"state": START}, carry)
    two, _, _ = mpc.act({"state": START}, carry)
    assert torch.equal(one, two)
    assert carry.age == 1
    assert torch.equal(carry.plan.actions, before)


class Spy:
    """A planner that records its warm starts and always plans to move 0, 1, 2, ... steps."""

    action = GRID

    def __init__(self, horizon: int = 4) -> None:
        self.config, self.warm = CEM.Config(horizon=horizon), []
        self.inner = CEM(CEM.Config(horizon=horizon, candidates=16, iterations=2, elites=4), GRID)

    def plan(self, imagine, state, cost, warm, rng):
        self.warm.append(warm)
        return self.inner.plan(imagine, state, cost, warm, rng)


@pytest.mark.parametrize("replan_every", [1, 3])
def test_the_warm_start_is_the_last_plan_moved_by_what_was_done(replan_every):
    spy = Spy()
    mpc = MPC(Plane(GRID), MPC.Config(replan_every=replan_every), spy)
    _, infos, _ = drive(mpc, START, GOAL, replan_every + 1)
    assert spy.warm[0] is None
    old = infos[0]["plan"]
    rest = old[:, replan_every:]
    assert torch.equal(spy.warm[1].actions[:, : rest.shape[1]], rest)
    assert torch.equal(spy.warm[1].actions[:, -1], old[:, -1])


def test_warm_can_be_turned_off():
    spy = Spy()
    drive(MPC(Plane(GRID), MPC.Config(warm=False), spy), START, GOAL, 3)
    assert spy.warm == [None] * 3


def test_restart_forgets_the_chosen_rows_only():
    mpc = agent(replan_every=4)
    _, _, carry = drive(mpc, START, GOAL, 2)
    rows = torch.tensor([False, True, False])
    goal = torch.tensor([[9.0, 9.0], [6.0, 5.0], [9.0, 9.0]])
    again = mpc.restart(carry, rows, {"state": goal})
    assert torch.equal(again.goal.p, torch.stack([GOAL[0], goal[1], GOAL[2]]))
    assert again.state.seen.tolist() == [2.0, 0.0, 2.0]
    assert torch.equal(again.previous[1], GRID.idle(()))
    assert torch.equal(again.previous[0], carry.previous[0])
    action, after, info = mpc.act({"state": START}, again)
    assert info["replanned"]
    assert after.age == 1
    assert torch.equal(action[1], GRID.one_hot(torch.tensor(1)))  # down, towards (6, 5)


def test_train_mode_explores():
    mpc = agent(explore=1.0)
    goal = {"state": START}  # already there: the plan is to stay
    carry = mpc.start(3, goal)
    plain = torch.cat([mpc.act({"state": START}, carry, "eval")[0] for _ in range(8)])
    wild = torch.cat([mpc.act({"state": START}, carry, "train")[0] for _ in range(8)])
    assert (plain.argmax(-1) == 4).all()
    assert len(wild.argmax(-1).unique()) > 2
    assert GRID.contains(wild)


def test_a_cost_of_ones_own():
    lazy = agent(cost=lambda states, actions, goal: 1 - actions[..., 4].mean(-1))  # the fraction of steps that move
    assert torch.equal(drive(lazy, START, GOAL, 2)[0][:, -1], START)


def test_it_is_an_agent():
    assert isinstance(agent(), AgentComponent)


def test_it_is_built_from_its_config_and_is_named_after_its_planner():
    class Learner:
        model = Plane(GRID)

    mpc = MPC.build(MPC.Config(CEM.Config(horizon=3), replan_every=2), Learner)
    assert mpc.name == "cem"
    assert mpc.planner.config == CEM.Config(horizon=3)
    assert mpc.model is Learner.model
    assert mpc.needs_goal
    assert MPC.Config().planner.name == "astar"


def test_what_mpc_refuses():
    with pytest.raises(UserError, match="agent.replan_every = 5: the plan has only horizon = 4"):
        agent(replan_every=5)
    with pytest.raises(UserError, match="agent.replan_every = 0: must be at least 1"):
        agent(replan_every=0)
    with pytest.raises(UserError, match="mpc has no mode 'evl'; did you mean 'eval'"):
        mpc = agent()
        mpc.act({"state": START}, mpc.start(3, {"state": GOAL}), "evl")
    with pytest.raises(UserError, match="needs a goal; got None"):
        mpc.act({"state": START}, mpc.start(3))
    with pytest.raises(UserError, match="goal 'state' has 2 rows; the agent was started with 3"):
        mpc.start(3, {"state": GOAL[:2]})
