"""Collection: an agent acts in environments, and one row per environment and step goes into the replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.protocols import Agent, VecEnv
from isochrone.core.types import ActionSpec, Batch, Spec, Step, Struct
from isochrone.data.replay import ReplayBuffer


class Returns:
    """Sums the rewards of each environment into episode returns; a return is recorded at the episode's last row.

    Episodes that had begun before are left out; after `reset` every environment must begin a new one.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.done: list[float] = []

    def reset(self) -> None:
        """Forget unfinished episodes."""
        self.sums = None

    def __call__(self, step: Step) -> None:
        """Count one row of every environment. Rewards belong to the arrival, so that of a last row counts."""
        reward = step.reward.double().cpu()
        fresh = torch.full_like(reward, torch.nan) if self.sums is None else self.sums
        self.sums = torch.where(step.first.cpu(), 0.0, fresh) + reward
        ended = self.sums[step.last.cpu()]
        self.done += ended[~ended.isnan()].tolist()

    def drain(self) -> list[float]:
        """Returns of the episodes that have ended since the last call."""
        done, self.done = self.done, []
        return done

    def state_dict(self) -> dict[str, Any]:
        """The returns that were not drained yet."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; unfinished episodes are forgotten."""
        self.done, self.sums = [float(x) for x in state["done"]], None


Act = Callable[[Mapping[str, Tensor], Any, str], tuple[Tensor, Any, dict[str, Any]]]
"""(obs, carry, mode) -> (action (B, A), carry, info). `obs` also holds 'first' (B): agents reset their carry there."""


@dataclass(frozen=True)
class Collection(Struct):
    """Where collection stands: the step that is not recorded yet, and what the agent remembers."""

    step: Step
    agent: Any = None


@torch.no_grad()
def collect(
    env: VecEnv,
    act: Agent | Act,
    replay: ReplayBuffer,
    steps: int,
    rng: torch.Generator,
    progress: Callable[[int], None] | None = None,
    start: Collection | None = None,
    mode: str = "train",
    watch: Callable[[Step], None] | None = None,
    where: str = "collect",
) -> Collection:
    """Record at least `steps` env steps (a row of B environments counts B); returns where to continue.

    `act` is an Agent, started with `rng` and restarted where episodes begin, or an `Act`, which reads obs['first'].
    Without `start` the environments are reset with a seed sampled from `rng`. `progress` is called with the env steps
    done so far in this call, `watch` with every row that is recorded, and with the one that follows the last. `where`
    names the environment in error messages.
    """
    if steps < 1:
        raise UserError(f"collect: {steps} steps; ask for at least 1")
    if env.num_envs != replay.num_envs:
        raise UserError(f"collect: {env.num_envs} environments but a replay of {replay.num_envs}; make them equal")
    on_row = watch or (lambda step: None)
    agent = act if isinstance(act, Agent) else None
    fresh = start is None  # a carry that has just been started needs no restart
    if start is None:
        seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        step = env.reset(seed)
        start = Collection(step, agent.start(env.num_envs, rng=rng) if agent is not None else None)
    step, memory = start.step, start.agent
    on_row(step)
    choose: Act = act.act if isinstance(act, Agent) else act
    count = 0
    while count < steps:
        if agent is not None and not fresh and bool(step.first.any()):
            memory = agent.restart(memory, step.first)
        fresh = False
        action, memory, _ = choose({**step.obs, "first": step.first}, memory, mode)  # (B, A)
        replay.add(step, action, where)
        step = env.step(action)
        on_row(step)
        count += env.num_envs
        if progress is not None:
            progress(count)
    return Collection(step, memory)


def random_policy(spec: ActionSpec, rng: torch.Generator, hold_steps: float = 1.0) -> Act:
    """Uniform random actions, each repeated for `hold_steps` steps on average (1: a new one every step).

    Persistence covers more ground: n steps of a walk that turns every k steps reach about sqrt(n k) away. The length of
    a stretch is geometric, so it has no period that interferes with the episode length; every episode begins with a
    fresh action.
    """
    if hold_steps < 1:
        raise UserError(f"random policy: hold_steps = {hold_steps}, must be at least 1")

    def act(obs: Mapping[str, Tensor], carry: Any, mode: str) -> tuple[Float[Tensor, "B A"], Any, dict[str, Any]]:
        first = obs["first"]  # (B)
        fresh = spec.sample(first.shape, rng)  # (B, A)
        turn = torch.rand(first.shape, generator=rng, device=rng.device) < 1 / hold_steps  # (B)
        if carry is None:
            return fresh, fresh, {}
        action = torch.where((turn | first.to(turn.device))[:, None], fresh, carry)  # (B, A)
        return action, action, {}

    return act


def noise_batch(spec: Spec, windows: int, length: int, rng: torch.Generator) -> Batch:
    """Windows of random observations and actions within one episode, without rewards: enough to probe a model with."""
    shape = (windows, length)
    obs = {
        name: torch.randint(256, (*shape, *size), generator=rng, dtype=torch.uint8)
        if name == "image"
        else torch.randn(*shape, *size, generator=rng)
        for name, size in spec.obs.items()
    }
    no = torch.zeros(shape, dtype=torch.bool)
    return Batch(obs, spec.action.sample(shape, rng), torch.zeros(shape), no, no, no)
