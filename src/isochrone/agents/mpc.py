"""Model-predictive control: filter what is seen, plan in the model, take the first actions, look again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.gradient import no_parameter_grad
from isochrone.core.registry import register
from isochrone.core.types import Plan, Struct, choose
from isochrone.planners.common import shifted
from isochrone.planners.cost import Formula, Reach, Return


@dataclass(frozen=True)
class Carry(Struct):
    """All that the agent remembers. `rng` is the one thing in it that changes in place."""

    state: Any  # State[B], filtered up to the last observation
    goal: Any  # State[B], or None
    previous: Float[Tensor, "B A"]  # the action taken at the last observation
    plan: Plan | None  # the plan in force
    age: int  # actions of it already taken
    rng: torch.Generator


@register("agent", "mpc")
class MPC:
    """A planner at work in a model. Vectorised over B rows, each with its own goal.

    `model` is a WorldModel with `distance(states, goal, space)`, or with `rewards(states)` where space = reward; `cost`
    a Formula, by default Reach in that space, or the Return.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "mpc"
        replan_every: int = option(1, "actions taken from one plan", ge=1)
        space: Literal["p", "z", "mixed", "reward"] = option(
            "p", "space in which the distance to the goal is measured; reward: no goal, plan for the return"
        )
        kind: Literal["path", "final", "first"] = option("path", "what of the imagined path counts")
        warm: bool = option(True, "start each plan from the previous one, moved on")
        discount: float = option(1.0, "factor per step of later rewards (space = reward)", gt=0, le=1)
        ends: bool = option(False, "let likely ends of the episode count against later rewards (space = reward)")
        draws: bool = option(True, "imagine futures drawn from the prior; false: its modes (state-space models)")
        explore: float = option(0.1, "share of random actions in mode 'train'", ge=0, le=1)
        noise: float = option(0.0, "spread of the noise on continuous actions in mode 'train' (PlaNet: 0.3)", ge=0)
        seed: int = option(0, "seed of the planner's draws where the caller passes no generator", ge=0)

    def __init__(self, model: Any, planner: Any, cost: Formula | None = None, config: Config | None = None) -> None:
        self.config: MPC.Config = validate(config or MPC.Config(), "mpc.")
        self.model, self.planner, self.action = model, planner, planner.action
        self.name: str = planner.config.name
        horizon = planner.config.horizon
        if self.config.replan_every > horizon:
            raise UserError(
                f"mpc.replan_every = {self.config.replan_every}: the plan has only horizon = {horizon} actions; "
                f"raise the planner's horizon or replan sooner"
            )
        self.cost = cost or self._cost()

    @property
    def needs_goal(self) -> bool:
        """Does it need a goal?"""
        return self.config.space != "reward"

    def _cost(self) -> Formula:
        c, model = self.config, self.model
        method = "distance" if self.needs_goal else "rewards"
        if not hasattr(model, method):
            kind = type(model).__name__.lower()
            mend = "set mpc.space = reward" if self.needs_goal else "set mpc.space = p, or choose model = rssm"
            raise UserError(f"mpc.space = {c.space}: model '{kind}' tells no {method}; {mend}")
        if self.needs_goal:
            return Reach(partial(model.distance, space=c.space), c.kind)
        return Return(model.rewards, model.continues if c.ends else None, c.discount)

    @torch.no_grad()
    def start(self, batch: int, goal: Mapping[str, Tensor] | None = None, rng: torch.Generator | None = None) -> Carry:
        """A new episode in every row. `goal`: observations (B, ...) of where to go, one per row."""
        state = self.model.start(batch)
        idle = self._idle(batch, state)
        return Carry(
            state=state,
            goal=None if goal is None else self._seen(goal, batch),
            previous=idle,
            plan=None,
            age=0,
            rng=rng if rng is not None else torch.Generator().manual_seed(self.config.seed),
        )

    @torch.no_grad()
    def restart(self, carry: Carry, rows: Bool[Tensor, "B"], goal: Mapping[str, Tensor] | None = None) -> Carry:
        """Forget the past of the rows that begin a new episode; `goal` (B, ...) gives them new goals.

        The next `act` plans anew for every row.
        """
        fresh = self.model.start(len(rows))
        aim = carry.goal
        if goal is not None:
            seen = self._seen(goal, len(rows))
            aim = seen if aim is None else choose(rows, seen, aim)
        previous = torch.where(rows[:, None], self._idle(len(rows), fresh), carry.previous)
        plan = carry.plan
        if plan is not None:  # a row without a past has no plan either: its guess is to rest
            moved = shifted(plan, carry.age).actions
            rest = self.action.idle(moved.shape[:2], moved.device).to(moved.dtype)
            plan = Plan(torch.where(rows[:, None, None], rest, moved), plan.cost)
        return carry.replace(state=choose(rows, fresh, carry.state), goal=aim, previous=previous, plan=plan, age=-1)

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], carry: Carry, mode: str = "eval"
    ) -> tuple[Float[Tensor, "B A"], Carry, dict[str, Any]]:
        """One action per row.

        info: cost (B) of the plan in force, evaluations (imagined steps per row spent in this call), replanned,
        plan (B,H,A), trace of the planner (empty between plans).
        """
        if mode not in ("eval", "train"):
            raise UserError(f"mpc has no mode '{mode}'{did_you_mean(mode, ('eval', 'train'))}")
        drawn = {"rng": carry.rng} if getattr(self.model, "draws", False) else {}
        state = self.model.update(carry.state, carry.previous, obs, **drawn)
        plan, age, trace = carry.plan, carry.age, {}
        due = plan is None or age < 0 or age >= self.config.replan_every
        if due:
            warm = None if plan is None or not self.config.warm else shifted(plan, max(age, 0))
            imagine = partial(self.model.imagine, **(drawn if self.config.draws else {}))
            with no_parameter_grad(self.model):
                plan = self.planner.plan(imagine, state, self.cost.bind(carry.goal), warm, carry.rng)
            age, trace = 0, plan.trace
        assert plan is not None
        action = plan.actions[:, age]  # (B, A)
        if mode == "train":
            action = self._explored(action, carry.rng)
        info = {
            "cost": plan.cost,
            "evaluations": trace.get("evaluations", 0),
            "replanned": due,
            "plan": plan.actions,
            "trace": trace,
        }
        return (
            action,
            carry.replace(state=state, previous=action, plan=Plan(plan.actions, plan.cost), age=age + 1),
            info,
        )

    def _seen(self, goal: Mapping[str, Tensor], batch: int) -> Any:
        """The model's state of one look at the goal."""
        for name, value in goal.items():
            if value.shape[0] != batch:
                raise UserError(f"goal '{name}' has {value.shape[0]} rows; the agent was started with {batch}")
        state = self.model.start(batch)
        return self.model.update(state, self._idle(batch, state), goal)

    def _idle(self, batch: int, state: Any) -> Tensor:
        return self.action.idle((batch,), state.feat().device)

    def _explored(self, action: Tensor, rng: torch.Generator) -> Tensor:
        random = self.action.sample((len(action),), rng).to(action)
        lucky = torch.rand(len(action), 1, generator=rng, device=rng.device).to(action.device) < self.config.explore
        action = torch.where(lucky, random, action)
        if self.action.discrete or not self.config.noise:
            return action
        noise = torch.randn(action.shape, generator=rng, device=rng.device).to(action)
        return self.action.project(action + self.config.noise * noise)
