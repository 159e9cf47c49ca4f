"""Does the planner exploit its model? What plans promise, beside what then came. For measuring only.

What it costs to imagine in pixels rather than in latents. For measuring only.

What an agent earns: returns of whole episodes beside their baselines, and beside the oracle where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.agents.baselines import NoOp, Random
from isochrone.core.protocols import Agent, HasBestReturn
from isochrone.evals.model_access import generator, numpy
from isochrone.evals.stats import bootstrap_mean


class Promises:
    """Listens to an episode: `made` at every action, `came` at every step.

    The cost of a plan for reward is minus the sum of `discount`ed rewards over its horizon.
    """

    def __init__(self, discount: float = 1.0) -> None:
        self.discount = discount
        self.horizon = 0
        self.promised: dict[int, Tensor] = {}  # step -> (B,); steps at which an older plan is followed are left out
        self.reward: list[Tensor] = []  # (B,) per step, 0 where the world has ended
        self.alive: list[Tensor] = []  # (B,) did it come in the world's first episode, unbroken?

    def made(self, info: Mapping[str, Any]) -> None:
        """What `MPC.act` says of the plan in force."""
        self.horizon = info["plan"].shape[1]
        if info["replanned"]:
            self.promised[len(self.reward)] = -info["cost"].double().cpu()

    def came(self, reward: Tensor, alive: Tensor) -> None:
        self.reward.append(reward.double().cpu() * alive)
        self.alive.append(alive.clone())

    def kept(self, rng: np.random.Generator) -> dict[str, Any]:
        """{'promised', 'came', 'overpromise' (promised - came)}: means per plan over those whose whole horizon was
        played, with a bootstrap over worlds; empty where no plan had the time. Later plans correct earlier ones, so
        what came is more than a plan alone would have brought."""
        if not self.reward:
            return {}
        reward, alive = (torch.stack(x, 1) for x in (self.reward, self.alive))  # (B, T)
        starts = [t for t in self.promised if t + self.horizon <= reward.shape[1]]
        weight = self.discount ** torch.arange(self.horizon, dtype=torch.float64)
        told, got = [], []
        for t in starts:
            whole = alive[:, t : t + self.horizon].all(1)
            told.append(torch.where(whole, self.promised[t], torch.nan))
            got.append(torch.where(whole, (reward[:, t : t + self.horizon] * weight).sum(1), torch.nan))
        if not starts or not (rows := ~torch.stack(told, 1).isnan().all(1)).any():
            return {}
        promised, came = (numpy(torch.stack(x, 1).nanmean(1)[rows]) for x in (told, got))
        return {
            "promised": float(promised.mean()),
            "came": float(came.mean()),
            "overpromise": float((promised - came).mean()),
            "overpromise.interval": bootstrap_mean(promised - came, rng),
        }


CANDIDATES, HORIZON, TRIES = 64, 12, 5


@torch.no_grad()
def cost(model: Any, clock: Callable[[], float]) -> dict[str, float]:
    """{'cost.frames': seconds of imagining with every frame drawn, over seconds of imagining and its rewards alone}.

    For models of images with rewards. Medians of `TRIES` pairs taken in turn, after one that warms up.
    """
    start = model.start(1)
    device = start.feat().device
    moves = model.action.idle((1, CANDIDATES, HORIZON), device)

    def seconds(drawn: bool) -> float:
        began = clock()
        dreamt = model.imagine(start, moves)
        last = model.rewards(dreamt)
        if drawn:
            last = model.decode(dreamt.map(lambda x: x.flatten(0, 2)))
        last.sum().item()  # waits for the device
        return clock() - began

    told = [(seconds(False), seconds(True)) for _ in range(TRIES + 1)][1:]
    return {"cost.frames": median(drawn for _, drawn in told) / max(median(plain for plain, _ in told), 1e-9)}


@torch.no_grad()
def played(
    env: Any,
    agent: Agent,
    seed: int,
    device: torch.device | str = "cpu",
    promises: Promises | None = None,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "B"]:
    """The return of one whole episode in every world, acted in mode 'eval'; worlds that have ended wait for the rest.

    `agent` acts on `device` and is started with `rng`. `promises` listens.
    """
    step = env.reset(seed)
    carry = agent.start(env.num_envs, rng=rng)
    total = torch.zeros(env.num_envs, dtype=torch.float64)
    alive = torch.ones(env.num_envs, dtype=torch.bool)
    while True:
        begun = step.first.cpu() & alive  # also after a crash: what came before is not this episode's
        total = torch.where(begun, 0.0, total) + step.reward.double().cpu() * alive
        alive &= ~step.last.cpu()
        if not bool(alive.any()):
            return total
        action, carry, info = agent.act({k: v.to(device) for k, v in step.obs.items()}, carry, "eval")
        step = env.step(action.to(step.reward))
        if promises is not None:
            promises.made(info)
            promises.came(step.reward.cpu(), alive & ~step.first.cpu())


def earned(
    env: Any,
    agents: Mapping[str, Agent],
    seed: int,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """{'return.NAME': mean over the worlds' first episodes from `seed`, with interval and the random agent as floor}.

    'return.promised', 'came' and 'overpromise' compare the first agent's plans for reward with what came of them.
    Where the environment has the best possible returns, 'return.share' is the first agent's part of them.
    """
    baselines = {agent.name: agent for agent in (NoOp(env.spec.action), Random(env.spec.action))}
    discounts = {name: getattr(getattr(agent, "cost", None), "discount", None) for name, agent in agents.items()}
    heard = {name: Promises(d) for name, d in discounts.items() if d is not None}  # of those that plan for reward
    found = {name: played(env, agent, seed, device, heard.get(name), rng=rng) for name, agent in agents.items()}
    found |= {name: played(env, agent, seed, rng=rng) for name, agent in baselines.items()}
    out: dict[str, Any] = {}
    for name, values in found.items():
        out[f"return.{name}"] = float(values.mean())
        out[f"return.{name}.interval"] = bootstrap_mean(numpy(values), generator(rng))
    for name in agents:
        out[f"return.{name}.floor"] = out["return.random"]
    out["return.episodes"] = numpy(torch.stack([found[name] for name in agents]))
    for told in list(heard.values())[:1]:
        out |= {f"return.{k}": v for k, v in told.kept(generator(rng)).items()}
    env.reset(seed)
    best = env.best_return() if isinstance(env, HasBestReturn) else None
    if best is not None and agents:
        out["return.oracle"] = float(best.double().mean())
        out["return.share"] = out[f"return.{next(iter(agents))}"] / max(out["return.oracle"], 1e-9)
        out["return.share.floor"] = out["return.random"] / max(out["return.oracle"], 1e-9)
    return out
