"""The source of training batches: windows sampled from the replay, and further collection during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from isochrone.core.protocols import Agent
from isochrone.core.types import Batch
from isochrone.data.collect import Returns, collect, random_policy
from isochrone.data.replay import ReplayBuffer
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.training.device import device_of, generator
from isochrone.workflows import factory
from isochrone.workflows.encoder_cache import FrozenEncoderCache


class ReplaySource:
    """Samples training batches, and collects by period or by ratio. Its state is stored in checkpoints."""

    def __init__(self, config: Config, replay: ReplayBuffer, objective: TrainingObjective, envs: Sequence[int]) -> None:
        self.config, self.replay, self.objective, self.envs = config, replay, objective, list(envs)
        train = config.train
        frames = int((config.data.period or train.steps) * train.batch * train.length)
        self.encoder_cache = FrozenEncoderCache(objective, replay, frames)
        self.rng = generator(config.train.seed, "collect while training")
        self.batches, self.returns = 0, Returns()  # batches sampled so far
        self.env = factory.make_env(config, replay.num_envs) if config.data.period else None

    def __call__(self, rng: torch.Generator) -> Batch:
        """The next training batch."""
        data, train = self.config.data, self.config.train
        for _ in range(data.collections(self.batches) - data.collections(max(self.batches - 1, 0))):
            self.collect()
        self.encoder_cache.update(self.batches / train.steps)
        self.batches += 1
        return self.replay.sample(train.batch, train.length, rng, self.envs)

    def collect(self) -> None:
        """Add rows of every environment, from a fresh reset, so that no environment state need be stored."""
        data, env = self.config.data, self.env
        assert env is not None
        act: Any = random_policy(env.spec.action, self.rng, data.hold_steps)
        if data.collect_policy == "agent":
            agent, goal = factory.make_agent(self.config, self.objective.learner), None
            if agent.needs_goal:
                rows = self.replay.sample(self.replay.num_envs, 1, self.rng)
                goal = {name: x[:, 0] for name, x in rows.obs.items()}
            act = DeviceAgent(agent, device_of(self.config.train), goal)
        self.returns.reset()
        steps = self.replay.num_envs * data.collect_steps
        where = factory.env_text(self.config)
        collect(env, act, self.replay, steps, self.rng, watch=self.returns, where=where)

    def drain(self) -> dict[str, float]:
        """Metrics of the collections since the last call: mean return of finished episodes, all frames so far."""
        returns = self.returns.drain()
        if not self.env:
            return {}
        metrics = {"collect/frames": float(self.replay.total)}
        if returns:
            metrics |= {"collect/return": sum(returns) / len(returns), "collect/episodes": float(len(returns))}
        return metrics

    def close(self) -> None:
        """Close the environments that were collected in."""
        if self.env is not None:
            self.env.close()

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "rng": self.rng.get_state(), "returns": self.returns.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches = int(state["batches"])
        self.encoder_cache.clear()  # it belongs to other weights
        self.rng.set_state(state["rng"])
        self.returns.load_state_dict(state["returns"])


class DeviceAgent:
    """An agent on its model's device that acts in environments on the CPU, with a goal where it needs one."""

    def __init__(self, agent: Agent, device: torch.device, goal: Mapping[str, torch.Tensor] | None = None) -> None:
        self.agent, self.device, self.goal = agent, device, goal
        self.name, self.needs_goal = agent.name, False  # it has its goal already

    def start(
        self, batch: int, goal: Mapping[str, torch.Tensor] | None = None, rng: torch.Generator | None = None
    ) -> Any:
        goal = self.goal if goal is None else goal
        return self.agent.start(batch, None if goal is None else self._to_device(goal), rng)

    def restart(self, carry: Any, rows: torch.Tensor, goal: Mapping[str, torch.Tensor] | None = None) -> Any:
        return self.agent.restart(carry, rows.to(self.device), None if goal is None else self._to_device(goal))

    def act(
        self, obs: Mapping[str, torch.Tensor], carry: Any, mode: str = "eval"
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        action, carry, info = self.agent.act(self._to_device(obs), carry, mode)
        return action.cpu(), carry, info

    def _to_device(self, obs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: x.to(self.device) for name, x in obs.items()}
