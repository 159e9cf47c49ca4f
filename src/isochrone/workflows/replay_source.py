"""Where training windows come from, and how more are collected while training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from isochrone.agents.mpc import MPC
from isochrone.core.types import Batch
from isochrone.data.collect import Returns, collect, random_policy
from isochrone.data.replay import Replay
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.train.device import generator
from isochrone.workflows import build
from isochrone.workflows.encoder_cache import Resting


class Refresh:
    """Draws training windows, and collects again every so many draws. What it remembers goes into checkpoints."""

    def __init__(self, config: Config, replay: Replay, total: TrainingObjective, lanes: Sequence[int]) -> None:
        self.config, self.replay, self.total, self.lanes = config, replay, total, list(lanes)
        train = config.train
        drawn = (config.data.refresh_every or train.steps) * train.batch * train.length
        self.resting = Resting(total, replay, drawn)
        self.rng = generator(config.train.seed, "collect while training")
        self.drawn, self.returns = 0, Returns()
        self.env = build.make_env(config, replay.lanes) if config.data.refresh_every else None

    def __call__(self, rng: torch.Generator) -> Batch:
        """The next batch of training windows."""
        every, train = self.config.data.refresh_every, self.config.train
        if every and self.drawn and self.drawn % every == 0:
            self.collect()
        self.resting.at(self.drawn / train.steps)
        self.drawn += 1
        return self.replay.sample(train.batch, train.length, rng, self.lanes)

    def collect(self) -> None:
        """Whole new episodes in every lane, begun from a fresh reset so that nothing of the world need be stored."""
        data, env = self.config.data, self.env
        assert env is not None
        act: Any = random_policy(env.spec.action, self.rng, data.repeat)
        if data.refresh_by == "agent":
            agent, goal = build.make_agent(self.config, self.total.model), None
            if agent.needs_goal:
                seen = self.replay.sample(self.replay.lanes, 1, self.rng)
                goal = {name: x[:, 0] for name, x in seen.obs.items()}
            act = Placed(agent, goal)
        self.returns.reset()
        rows = self.replay.lanes * data.refresh_rows
        collect(env, act, self.replay, rows, self.rng, watch=self.returns)

    def drain(self) -> dict[str, float]:
        """Numbers of the collections since the last call: mean return of finished episodes, all frames so far."""
        done = self.returns.drain()
        if not self.env:
            return {}
        found = {"collect/frames": float(self.replay.total)}
        return found | ({"collect/return": sum(done) / len(done), "collect/episodes": float(len(done))} if done else {})

    def close(self) -> None:
        """Close the world that was collected in."""
        if self.env is not None:
            self.env.close()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "rng": self.rng.get_state(), "returns": self.returns.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = int(state["drawn"])
        self.resting.forget()  # of other weights
        self.rng.set_state(state["rng"])
        self.returns.load_state_dict(state["returns"])


class Placed:
    """An agent on its model's device, in a world on the CPU; with a goal, where it needs one."""

    def __init__(self, agent: MPC, goal: Mapping[str, torch.Tensor] | None = None) -> None:
        self.agent, self.goal = agent, goal

        self.name, self.needs_goal = agent.name, False  # it has its goal already

    def start(
        self, batch: int, goal: Mapping[str, torch.Tensor] | None = None, rng: torch.Generator | None = None
    ) -> Any:
        goal = self.goal if goal is None else goal
        return self.agent.start(batch, None if goal is None else self._here(goal), rng)

    def restart(self, carry: Any, rows: torch.Tensor, goal: Mapping[str, torch.Tensor] | None = None) -> Any:
        return self.agent.restart(carry, rows.to(self._device), None if goal is None else self._here(goal))

    def act(
        self, obs: Mapping[str, torch.Tensor], carry: Any, mode: str = "eval"
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        action, carry, info = self.agent.act(self._here(obs), carry, mode)
        return action.cpu(), carry, info

    @property
    def _device(self) -> torch.device:
        return next(self.agent.model.parameters()).device

    def _here(self, obs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: x.to(self._device) for name, x in obs.items()}
