"""What does it earn? Returns of whole episodes beside their baselines, planned against realized return, decode cost."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isochrone.agents.baselines import NoOp, Random
from isochrone.core.protocols import Agent, Decodes, HasBestReturn, PlansReturns, PredictsReward
from isochrone.core.tensors import copy_generator
from isochrone.evals.context import Context, plays_episodes
from isochrone.evals.metric import Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import numpy, numpy_generator
from isochrone.evals.progress import watched
from isochrone.evals.stats import bootstrap_mean

EARN = Question(
    "return",
    "What does it earn?",
    "Whole episodes played by the agent, without exploration noise.",
    order=60,
)
RANDOM = "random actions, in episodes from the same seed"


@family("return", EARN, needs=[plays_episodes], place=0)
@metric("return.{agent}", "return of {agent}", baseline=RANDOM)
@metric("return.share", "fraction of the best possible return", "%", baseline=RANDOM, target=">= 0.95")
@metric("return.oracle", "the best possible return")
@metric("return.random", "return of random actions")
@metric("return.noop", "return of doing nothing")
@metric("return.planned", "return that a plan predicts over its horizon")
@metric("return.realized", "… and the return realized in that time")
@metric("return.plan_optimism", "… predicted but not realized (above 0: plans exploit the model)")
def returns(context: Context) -> dict[str, Any]:
    """Mean returns over the episodes from the evaluation's seed, one per environment.

    planned, realized and plan_optimism compare the plans for reward of the first such agent with what was realized.
    share: the first agent's part of the best possible return, where that is known.
    """
    assert context.make_env is not None  # one of its needs
    env = context.make_env(context.config.return_episodes)
    try:
        agents = watched(context.agents, context.progress, "playing episodes")
        return evaluate_returns(env, agents, context.config.seed, context.rng, context.device)
    finally:
        env.close()


def evaluate_returns(
    env: Any,
    agents: Mapping[str, Agent],
    seed: int,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The metrics of `returns` in `env`.

    Each agent draws the same random numbers, so that its return does not depend on which others are played.
    """
    baselines = {agent.name: agent for agent in (NoOp(env.spec.action), Random(env.spec.action))}
    discounts = {n: agent.return_discount for n, agent in agents.items() if isinstance(agent, PlansReturns)}
    trackers = {name: PlannedReturnTracker(d) for name, d in discounts.items() if d is not None}
    totals = {
        name: play_episodes(env, agent, seed, device, trackers.get(name), copy_generator(rng))
        for name, agent in agents.items()
    }
    totals |= {name: play_episodes(env, agent, seed, rng=copy_generator(rng)) for name, agent in baselines.items()}
    random = float(totals["random"].mean())
    out: dict[str, Any] = {}
    for name, values in totals.items():
        interval = bootstrap_mean(numpy(values), numpy_generator(copy_generator(rng)))
        out[name] = Estimate(float(values.mean()), interval, random if name in agents else None)
    out["episodes"] = numpy(torch.stack([totals[name] for name in agents]))
    for tracker in list(trackers.values())[:1]:
        out |= tracker.summary(numpy_generator(copy_generator(rng)))
    env.reset(seed)
    best_returns = env.best_return() if isinstance(env, HasBestReturn) else None
    if best_returns is not None:
        best = float(best_returns.double().mean())
        first = out[next(iter(agents))]
        out["oracle"] = best
        out["share"] = (
            Estimate(first / best, baseline=random / best)
            if best > 1e-6
            else Refused(f"the best possible return is {best:.2g}: a fraction of it means nothing")
        )
    return out


@torch.no_grad()
def play_episodes(
    env: Any,
    agent: Agent,
    seed: int,
    device: torch.device | str = "cpu",
    tracker: PlannedReturnTracker | None = None,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "B"]:
    """The return of one whole episode in every environment, in mode 'eval'; finished environments wait for the rest.

    `agent` is an Agent on `device`; `tracker` records its plans and the rewards.
    """
    step = env.reset(seed)
    carry = agent.start(env.num_envs, rng=rng)
    total = torch.zeros(env.num_envs, dtype=torch.float64)
    alive = torch.ones(env.num_envs, dtype=torch.bool)
    while True:
        begins = step.first.cpu() & alive  # also after a crash: earlier rewards are not of this episode
        total = torch.where(begins, 0.0, total) + step.reward.double().cpu() * alive
        alive &= ~step.last.cpu()
        if not bool(alive.any()):
            return total
        action, carry, info = agent.act({k: v.to(device) for k, v in step.obs.items()}, carry, "eval")
        step = env.step(action.to(step.reward))
        if tracker is not None:
            tracker.record_plan(info)
            tracker.record_reward(step.reward.cpu(), alive & ~step.first.cpu())


class PlannedReturnTracker:
    """Compares the return that plans predict with the return realized over their horizon.

    The cost of a plan for reward is minus the sum of `discount`ed rewards over its horizon. `record_plan` is called
    after every action, `record_reward` after every step.
    """

    def __init__(self, discount: float = 1.0) -> None:
        self.discount = discount
        self.horizon = 0
        self.planned: dict[int, Tensor] = {}  # step -> (B,), for the steps at which a new plan was made
        self.reward: list[Tensor] = []  # (B,) per step, 0 where the environment has finished
        self.alive: list[Tensor] = []  # (B,) is the step part of the environment's first episode, unbroken?

    def record_plan(self, info: Mapping[str, Any]) -> None:
        """`info` of an agent that plans: 'plan' (B, H, A), 'cost' (B) and 'replanned'."""
        self.horizon = info["plan"].shape[1]
        if info["replanned"]:
            self.planned[len(self.reward)] = -info["cost"].double().cpu()

    def record_reward(self, reward: Float[Tensor, "B"], alive: Bool[Tensor, "B"]) -> None:
        self.reward.append(reward.double().cpu() * alive)
        self.alive.append(alive.clone())

    def summary(self, rng: np.random.Generator) -> dict[str, Any]:
        """{'planned', 'realized', 'plan_optimism' (planned - realized)}: means per plan over those whose whole horizon
        was played, with a bootstrap over environments; empty where no plan was played to its end. Later plans correct
        earlier ones, so more is realized than one plan alone would have earned."""
        if not self.reward:
            return {}
        reward, alive = (torch.stack(x, 1) for x in (self.reward, self.alive))  # (B, T)
        starts = [t for t in self.planned if t + self.horizon <= reward.shape[1]]
        weight = self.discount ** torch.arange(self.horizon, dtype=torch.float64)
        planned, realized = [], []
        for t in starts:
            complete = alive[:, t : t + self.horizon].all(1)
            planned.append(torch.where(complete, self.planned[t], torch.nan))
            realized.append(torch.where(complete, (reward[:, t : t + self.horizon] * weight).sum(1), torch.nan))
        if not starts or not (rows := ~torch.stack(planned, 1).isnan().all(1)).any():
            return {}
        mean_planned, mean_realized = (numpy(torch.stack(x, 1).nanmean(1)[rows]) for x in (planned, realized))
        difference = mean_planned - mean_realized
        return {
            "planned": float(mean_planned.mean()),
            "realized": float(mean_realized.mean()),
            "plan_optimism": Estimate(difference.mean(), bootstrap_mean(difference, rng)),
        }


# --- decode cost ----------------------------------------------------------------------------------------------------

CANDIDATES, HORIZON, REPEATS = 64, 12, 5


def _shows_images(context: Context) -> bool:
    """The environments are observed as images."""
    return context.env is not None and "image" in context.env.spec.obs


def _has_clock(context: Context) -> bool:
    """There is a clock to measure time with."""
    return context.clock is not None


@family("decode_cost", EARN, needs=[plays_episodes, PredictsReward, Decodes, _shows_images, _has_clock])
@metric("decode_cost.ratio", "time to imagine with decoded frames over time without", "{:.1f}")
@torch.no_grad()
def decode_cost(context: Context) -> dict[str, Any]:
    """Seconds of imagining with every frame decoded, over seconds of imagining and its rewards alone.

    Medians of `REPEATS` pairs taken in turn, after one for warm-up.
    """
    model, clock = context.model, context.clock
    assert clock is not None  # one of its needs
    start = model.start(1)
    actions = model.action.idle((1, CANDIDATES, HORIZON), start.feat().device)

    def seconds(decode: bool) -> float:
        began = clock()
        imagined = model.imagine(start, actions)
        last = model.rewards(imagined)
        if decode:
            last = model.decode(imagined.map(lambda x: x.flatten(0, 2)))
        last.sum().item()  # waits for the device
        return clock() - began

    times = [(seconds(False), seconds(True)) for _ in range(REPEATS + 1)][1:]
    plain = median(plain for plain, _ in times)
    if not plain > 0:
        return {"ratio": Refused("the clock is too coarse to time imagining")}
    return {"ratio": median(decoded for _, decoded in times) / plain}
