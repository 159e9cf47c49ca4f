"""From a config to the things it names: world, replay, model, losses, planner, agent. No decisions of its own."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isochrone.agents.mpc import MPC
from isochrone.core import registry
from isochrone.core.config import override, part_config
from isochrone.core.errors import UserError
from isochrone.core.protocols import Agent
from isochrone.core.types import Spec
from isochrone.data.collect import collect, random_policy
from isochrone.data.episode import Episode, load_json, save_json, spec_from_dict, spec_to_dict
from isochrone.data.replay import Replay, row_bytes, split_envs
from isochrone.data.source import load_into, open_format
from isochrone.losses.liveness import Liveness, liveness
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.train.device import generator

Say = Callable[[str], None]


def silent(line: str) -> None:
    """Say nothing."""


def recipe(name: str, changes: Mapping[str, str] | None = None) -> Config:
    """The recipe `name` with changes laid over it ('train.steps' -> '100'), checked. UserError names what is wrong."""
    return configured(registry.get("recipe", name)(), changes or {})


def configured(config: Config, changes: Mapping[str, str]) -> Config:
    """`config` with changes laid over it. Short forms: see `full_name`."""
    return override(config, {full_name(key): value for key, value in changes.items()})


def full_name(key: str) -> str:
    """The option that a short form stands for: 'data' data.path, 'planner' agent.planner."""
    if key == "data":
        return "data.path"
    if key.split(".")[0] == "planner":
        return f"agent.{key}"
    return key


# --- world and data ---------------------------------------------------------------------------------------------------


def make_env(config: Config, num_envs: int) -> Any:
    """The world, `num_envs` of it."""
    return registry.get("env", config.env.name)(config.env, num_envs)


def spec_of(config: Config) -> Spec:
    """What the frames of this run look like: told by the recording where there is one, else by the world."""
    if config.data.path is not None:
        spec = open_format(config.data.path).read(config.data.path)[0]
    else:
        env = make_env(config, 1)
        spec = env.spec
        env.close()
    if registry.get("model", config.model.name).pixels:
        _ = spec.image  # refuse a world without them now
    return spec


def check_budget(config: Config, spec: Spec) -> None:
    """UserError where the collected frames would take more than the budget."""
    data = config.data
    margin = resume_margin(config)
    need = data.num_envs * (capacity(config) + margin) * row_bytes(spec)
    if data.path is None and need > data.budget_mb * 1e6:
        more = f" + {margin} to resume from (fewer with a smaller train.save_every)" if margin else ""
        raise UserError(
            f"data.num_envs = {data.num_envs} x {capacity(config)} rows{more} takes {need / 1e6:.0f} MB, more than "
            f"data.budget_mb = {data.budget_mb}: raise the budget or collect less"
        )


def capacity(config: Config) -> int:
    """Rows of each environment that can be sampled."""
    return max(config.data.rows, config.data.capacity)


def resume_margin(config: Config) -> int:
    """Older rows that are kept, so that a killed run finds everything that it could sample at its oldest checkpoint."""
    every, save = config.data.collect_every, config.train.save_every or config.train.steps
    return math.ceil(save / every + 1) * config.train.keep * config.data.collect_steps if every else 0


def fill_replay(
    config: Config, folder: Path | None, say: Say = silent, progress: Callable[[int], None] | None = None
) -> Replay:
    """The run's replay in `folder` (None: in RAM): opened if it is complete there, else recorded or loaded anew.

    Recording depends on the config alone, so a run that is killed meanwhile starts over and gets the same rows.
    """
    done = None if folder is None else folder / "complete.json"
    if folder is not None and done is not None and done.exists():
        replay = Replay.open(folder)
        say(replay.describe())
        return replay
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    if config.data.path is not None:
        replay = load_into(config.data.path, folder)
        say(replay.describe())
    else:
        replay = _collected(config, folder, say, progress)
    replay.flush()
    if folder is not None and done is not None:
        save_json(done, {"rows": len(replay), "spec": spec_to_dict(replay.spec)})
    return replay


def _collected(config: Config, folder: Path | None, say: Say, progress: Callable[[int], None] | None) -> Replay:
    data, env = config.data, make_env(config, config.data.num_envs)
    check_budget(config, env.spec)
    replay = Replay(env.spec, data.num_envs, capacity(config), folder, resume_margin(config))
    say(replay.describe())
    rng = generator(config.train.seed, "collect")
    act = random_policy(env.spec.action, rng, data.hold_steps)
    collect(env, act, replay, data.num_envs * data.rows, rng, progress)
    env.close()
    return replay


def holdout_split(config: Config, replay: Replay) -> tuple[list[int], list[int]]:
    """(environments to train on, environments of the holdout)."""
    return split_envs(replay.num_envs, config.data.holdout_fraction, config.train.seed)


def complete_episodes(replay: Replay) -> list[Episode]:
    """Every whole episode in the replay. UserError when there is none."""
    found = list(replay.episodes())
    if not found:
        raise UserError("no episode is complete yet: raise data.rows, or lower the world's episode_length")
    return found


def write_spec(path: Path, spec: Spec) -> None:
    """spec.json beside a run's config: what the frames look like, so that the replay may be deleted."""
    save_json(path, spec_to_dict(spec))


def read_spec(path: Path) -> Spec:
    """What `write_spec` wrote."""
    return spec_from_dict(load_json(path))


# --- model, losses, agents --------------------------------------------------------------------------------------------


def make_model(config: Config, spec: Spec) -> Any:
    """The model with first weights that follow from `train.seed`; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)  # modules draw their first weights from torch's own generator only
        return registry.get("model", config.model.name)(config.model, spec)


def make_objective(config: Config, model: Any) -> TrainingObjective:
    """The weighted sum of losses. UserError where a loss does not fit the model."""
    return TrainingObjective(model, config.loss, config.allow_dead_losses)


def make_agent(config: Config, learner: Any) -> Agent:
    """The run's agent, acting with the parts of `learner` (which has at least `.model`)."""
    return registry.get("agent", config.agent.name).build(config.agent, learner)


def make_agents(config: Config, learner: Any) -> dict[str, Agent]:
    """The run's agent and, for each other planner of `compare_planners`, MPC with its default settings; by name.

    MPC has the settings of the run's agent where that is MPC too.
    """
    agent = make_agent(config, learner)
    agents = {agent.name: agent}
    for name in config.compare_planners:
        if name not in agents:
            base = config.agent if isinstance(config.agent, MPC.Config) else MPC.Config()
            agents[name] = MPC.build(replace(base, planner=part_config("planner", name)), learner)
    return agents


def check_alive(config: Config, total: TrainingObjective, replay: Replay, windows: int = 8) -> Liveness:
    """Every loss on two real batches: value, gradient per group, and what is wrong."""
    rng = generator(config.train.seed, "liveness")
    size, envs = min(config.train.batch, windows), holdout_split(config, replay)[0]
    probes = [replay.sample(size, config.train.length, rng, envs) for _ in range(2)]
    return liveness(total, probes, config.train.seed)
