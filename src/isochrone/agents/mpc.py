"""Model-predictive control: filter the observations, plan in the model, take the first actions, plan again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.config import component_config, option, validate
from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.gradient import no_parameter_grad
from isochrone.core.protocols import Cost, HasDistance, Planner, PredictsContinue, PredictsReward
from isochrone.core.registry import register
from isochrone.core.types import Plan, Spec, Struct, choose
from isochrone.planners.common import shift_plan
from isochrone.planners.cost import ReachCost, ReturnCost


@dataclass(frozen=True)
class MPCCarry(Struct):
    """The state of the agent between calls. `rng` is the one field that changes in place."""

    state: Any  # State[B], filtered up to the last observation
    goal: Any  # State[B], or None
    previous: Float[Tensor, "B A"]  # the action taken at the last observation
    plan: Plan | None  # the current plan
    age: int  # how many of its actions were taken; -1: plan again at the next step
    rng: torch.Generator


@register("agent", "mpc")
class MPC:
    """A planner that acts through a world model, over B rows, each with its own goal.

    The model needs `distance(states, goal, space)`, or `rewards(states)` where the objective is the reward. `planner`
    and `cost` replace those that the config describes. Its name is that of its planner.

    UserError where the model lacks what the objective needs, or the plan is shorter than `replan_every`.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "mpc"
        planner: Any = option(lambda: component_config("planner", "astar"), "the planner", component="planner")
        replan_every: int = option(1, "actions taken from one plan", ge=1, le=10_000)
        objective: Literal["p", "z", "mixed", "reward"] = option(
            "p", "space in which the distance to the goal is measured; reward: no goal, maximise the return"
        )
        reach_cost: Literal["path", "final", "first"] = option(
            "path", "distance averaged over the path, after its last step, or steps until the goal is first reached"
        )
        warm: bool = option(True, "start each plan from the previous one, shifted by the actions taken")
        discount: float = option(1.0, "factor per step of later rewards (objective = reward)", gt=0, le=1)
        use_continue: bool = option(False, "weight rewards by the probability that the episode still runs (reward)")
        sample_futures: bool = option(True, "imagine samples of the prior; false: its modes (state-space models)")
        explore: float = option(0.1, "fraction of random actions in mode 'train'", ge=0, le=1)
        noise: float = option(
            0.0, "standard deviation of the noise on continuous actions in mode 'train' (PlaNet: 0.3)", ge=0
        )
        seed: int = option(0, "seed of the planner's samples where the caller passes no generator", ge=0)

    def __init__(
        self, model: Any, config: Config | None = None, planner: Planner | None = None, cost: Cost | None = None
    ) -> None:
        self.config: MPC.Config = validate(config or MPC.Config(), "agent.")
        self.planner: Planner = planner or _planner(self.config.planner, model)
        self.model, self.action = model, self.planner.action
        self.name: str = self.planner.config.name
        horizon = self.planner.config.horizon
        if self.config.replan_every > horizon:
            raise UserError(
                f"agent.replan_every = {self.config.replan_every}: the plan has only horizon = {horizon} actions; "
                f"raise the planner's horizon or replan sooner"
            )
        self.cost: Cost = cost or self._cost()

    @classmethod
    def build(cls, config: Config, learner: Any) -> MPC:
        """Plans in `learner.model`."""
        return cls(learner.model, config)

    @staticmethod
    def modules(config: Config, model: Any, spec: Spec) -> dict[str, nn.Module]:
        """{}: nothing to train beside the model."""
        return {}

    @property
    def needs_goal(self) -> bool:
        return self.config.objective != "reward"

    @property
    def return_discount(self) -> float | None:
        """The discount of the returns that plans maximise; None where they approach a goal."""
        return None if self.needs_goal else self.config.discount

    def _cost(self) -> Cost:
        c, model, name = self.config, self.model, type(self.model).__name__.lower()
        if self.needs_goal:
            if not isinstance(model, HasDistance):
                raise UserError(
                    f"agent.objective = {c.objective}: model '{name}' has no distance; set agent.objective = reward"
                )
            return ReachCost(partial(model.distance, space=c.objective), c.reach_cost)
        if not isinstance(model, PredictsReward):
            raise UserError(
                f"agent.objective = reward: model '{name}' predicts no rewards; set it to p, or choose model = rssm"
            )
        if not c.use_continue:
            return ReturnCost(model.rewards, None, c.discount)
        if not isinstance(model, PredictsContinue):
            raise UserError(
                f"agent.use_continue = true: model '{name}' does not predict whether episodes continue; set it to false"
            )
        return ReturnCost(model.rewards, model.continues, c.discount)

    @torch.no_grad()
    def start(
        self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: torch.Generator | None = None
    ) -> MPCCarry:
        """A new episode in every row. `goal`: observations (B, ...) of where to go; UserError for another B."""
        state = self.model.start(batch)
        return MPCCarry(
            state=state,
            goal=None if goal is None else self._goal_state(goal, batch),
            previous=self._noop(batch, state),
            plan=None,
            age=0,
            rng=rng if rng is not None else torch.Generator().manual_seed(self.config.seed),
        )

    @torch.no_grad()
    def restart(self, carry: MPCCarry, rows: Bool[Tensor, "B"], goal: Mapping[str, Tensor] | None = None) -> MPCCarry:
        """Start a new episode in the rows where `rows` is true; `goal` (B, ...) gives these rows new goals.

        The next `act` plans again for every row.
        """
        batch = len(rows)
        initial = self.model.start(batch)
        target = carry.goal
        if goal is not None:
            new = self._goal_state(goal, batch)
            target = new if target is None else choose(rows, new, target)
        previous = torch.where(rows[:, None], self._noop(batch, initial), carry.previous)
        plan = carry.plan
        if plan is not None:  # rows that start anew have no previous plan: their warm start is the no-op
            shifted = shift_plan(plan, carry.age).actions
            noop = self.action.idle(shifted.shape[:2], shifted.device).to(shifted.dtype)
            plan = Plan(torch.where(rows[:, None, None], noop, shifted), plan.cost)
        return carry.replace(
            state=choose(rows, initial, carry.state), goal=target, previous=previous, plan=plan, age=-1
        )

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], carry: MPCCarry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], MPCCarry, dict[str, Any]]:
        """One action per row. UserError for a mode other than 'eval' and 'train', or without a goal that is needed.

        info: cost (B) of the current plan, evaluations (imagined steps per row in this call), replanned,
        plan (B,H,A), trace of the planner (empty between plans).
        """
        if mode not in ("eval", "train"):
            raise UserError(f"mpc has no mode '{mode}'{did_you_mean(mode, ('eval', 'train'))}")
        sampling: dict[str, Any] = {"rng": carry.rng} if self.model.is_stochastic else {}
        state = self.model.update(carry.state, carry.previous, obs, **sampling)
        plan, age, trace = carry.plan, carry.age, {}
        due = plan is None or age < 0 or age >= self.config.replan_every
        if due:
            warm = None if plan is None or not self.config.warm else shift_plan(plan, max(age, 0))
            imagine = self.model.imagine
            if sampling and self.config.sample_futures:  # noise shared by rows: a plan does not depend on other rows
                imagine = partial(imagine, shared_noise=True, **sampling)
            with no_parameter_grad(self.model):
                plan = self.planner.plan(imagine, state, partial(self.cost, goal=carry.goal), warm, carry.rng)
            age, trace = 0, plan.trace
        assert plan is not None
        action = plan.actions[:, age]  # (B, A)
        if mode == "train":
            action = self._explore(action, carry.rng)
        info = {
            "cost": plan.cost,
            "evaluations": trace.get("evaluations", 0),
            "replanned": due,
            "plan": plan.actions,
            "trace": trace,
        }
        plan = Plan(plan.actions, plan.cost)
        return action, carry.replace(state=state, previous=action, plan=plan, age=age + 1), info

    def _goal_state(self, goal: Mapping[str, Tensor], batch: int) -> Any:
        """The model's state after one observation of the goal."""
        for name, value in goal.items():
            if value.shape[0] != batch:
                raise UserError(f"goal '{name}' has {value.shape[0]} rows; the agent was started with {batch}")
        state = self.model.start(batch)
        return self.model.update(state, self._noop(batch, state), goal)

    def _noop(self, batch: int, state: Any) -> Float[Tensor, "B A"]:
        return self.action.idle((batch,), state.feat().device)

    def _explore(self, action: Float[Tensor, "B A"], rng: torch.Generator) -> Float[Tensor, "B A"]:
        """Replace a fraction of the actions by random ones; add noise to continuous ones."""
        random = self.action.sample((len(action),), rng).to(action)
        replace = torch.rand(len(action), 1, generator=rng, device=rng.device).to(action.device) < self.config.explore
        action = torch.where(replace, random, action)
        if self.action.discrete or not self.config.noise:
            return action
        noise = torch.randn(action.shape, generator=rng, device=rng.device).to(action)
        return self.action.project(action + self.config.noise * noise)


def _planner(config: Any, model: Any) -> Planner:
    return registry.get("planner", config.name)(config, model.action)
