"""What an agent earns: returns of whole episodes beside their floors, and beside the oracle where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.evals.floors import Idle, Wander
from isochrone.evals.latent import generator, numpy
from isochrone.evals.promises import Promises
from isochrone.evals.stats import bootstrap_mean


@torch.no_grad()
def played(
    env: Any,
    agent: Any,
    seed: int,
    device: torch.device | str = "cpu",
    promises: Promises | None = None,
    **started: Any,
) -> Float[Tensor, "B"]:
    """The return of one whole episode in every world, acted in mode 'eval'; worlds that have ended wait for the rest.

    `agent` is an Agent: `start(batch, **started)` and `act(obs, carry, 'eval')`, on `device`. `promises` listens.
    """
    step = env.reset(seed)
    carry = agent.start(env.num_envs, **started)
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
    agents: Mapping[str, Any],
    seed: int,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    best: Callable[[Any], Float[Tensor, "B"]] | None = None,
) -> dict[str, Any]:
    """{'return.NAME': mean over the worlds' first episodes from `seed`, with interval and the random agent as floor}.

    'return.promised', 'came' and 'overpromise' compare the first agent's plans for reward with what came of them.
    `best(env)` after a reset tells the best possible returns; then 'return.share' is the first agent's part of them.
    """
    floors = {"noop": Idle(env.spec.action), "random": Wander(env.spec.action, rng)}
    discounts = {name: getattr(getattr(agent, "cost", None), "discount", None) for name, agent in agents.items()}
    heard = {name: Promises(d) for name, d in discounts.items() if d is not None}  # of those that plan for reward
    found = {name: played(env, agent, seed, device, heard.get(name), rng=rng) for name, agent in agents.items()}
    found |= {name: played(env, agent, seed) for name, agent in floors.items()}
    out: dict[str, Any] = {}
    for name, values in found.items():
        out[f"return.{name}"] = float(values.mean())
        out[f"return.{name}.interval"] = bootstrap_mean(numpy(values), generator(rng))
    for name in agents:
        out[f"return.{name}.floor"] = out["return.random"]
    out["return.episodes"] = numpy(torch.stack([found[name] for name in agents]))
    for told in list(heard.values())[:1]:
        out |= {f"return.{k}": v for k, v in told.kept(generator(rng)).items()}
    if best is not None and agents:
        env.reset(seed)
        top = best(env).double().cpu()
        out["return.oracle"] = float(top.mean())
        out["return.share"] = out[f"return.{next(iter(agents))}"] / max(out["return.oracle"], 1e-9)
        out["return.share.floor"] = out["return.random"] / max(out["return.oracle"], 1e-9)
    return out
