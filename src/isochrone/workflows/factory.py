"""From a config to the objects that it names: environment, model, losses, agent."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from isochrone.agents.mpc import MPC
from isochrone.core import gate, registry
from isochrone.core.config import component_config, override
from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.core.protocols import Agent
from isochrone.core.types import Spec
from isochrone.data.source import open_format
from isochrone.losses.objective import TrainingObjective
from isochrone.recipes.schema import Config
from isochrone.training.device import DrawFrom
from isochrone.training.learner import Learner

log = logging.getLogger(__name__)
KEPT = "map.txt"
"""The copy of the user's map file in a run folder."""


def make_config(recipe: str, changes: Mapping[str, Any] | None = None) -> Config:
    """The config of a recipe with `changes` applied ('train.steps' -> '100'), checked. UserError: what is wrong."""
    with registry.trusted():  # an import path that the user gave
        build = registry.get("recipe", recipe)
    return with_changes(_build(recipe, build), changes or {})


def _build(name: str, build: Any) -> Config:
    """What a recipe returns. UserError where something else than a recipe was imported."""
    try:
        config = build()
    except (Exception, SystemExit) as error:
        if ":" not in name or isinstance(error, UserError):
            raise
        refused = UserError(
            f"recipe '{name}' cannot be called ({type(error).__name__}: {error}): give a function without arguments "
            "that returns a Config"
        )
        refused.add_note(traceback.format_exc())
        raise refused from error
    if not isinstance(config, Config):
        raise UserError(f"recipe '{name}' returned a {type(config).__name__}: it must return a Config")
    return config


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with `changes` applied, checked. Short forms of options: see `full_name`."""
    return override(config, {full_name(key): value for key, value in changes.items()})


@runtime_checkable
class NamesFile(Protocol):
    """An environment's Config one of whose options is the path of a file."""

    file_option: ClassVar[str]


def _named_file(config: Config) -> str | None:
    """The file that the environment is made from, if there is one."""
    return getattr(config.env, config.env.file_option) if isinstance(config.env, NamesFile) else None


def keep_file(config: Config, folder: Path) -> None:
    """Copy the file that the environment is made from into a run, which then needs it no more."""
    if (file := _named_file(config)) is not None:
        atomic_write(folder / KEPT, gate.read_bytes(Path(os.path.realpath(file))))


def with_kept_file(config: Config, folder: Path) -> Config:
    """The config of a run, with the copy of the file in place of the file that it names. UserError: it has none."""
    if (file := _named_file(config)) is None:
        return config
    option = config.env.file_option
    if not gate.exists(folder / KEPT):
        raise UserError(
            f"{folder} was trained with env.{option} = {file!r}, but its copy of the file, {KEPT}, is missing: "
            f"give the file, --env.{option.replace('_', '-')} FILE"
        )
    gate.check_file(folder / KEPT)
    log.info("the environment is as %s was when the run began (%s)", file, folder / KEPT)
    return replace(config, env=replace(config.env, **{option: str(folder / KEPT)}))


def full_name(option: str) -> str:
    """The option that a short form stands for: 'data' for data.path, 'planner' for agent.planner."""
    if option == "data":
        return "data.path"
    return f"agent.{option}" if option.split(".")[0] == "planner" else option


def make_env(config: Config, num_envs: int) -> Any:
    """`num_envs` environments, stepped together."""
    return registry.get("env", config.env.name)(config.env, num_envs)


def env_text(config: Config) -> str:
    """ "environment 'whitebox:cabin'", for messages."""
    env = config.env
    value = getattr(env, env.shorthand) if hasattr(env, "shorthand") else ""
    return f"environment '{env.name}{f':{value}' if value else ''}'"


def spec_of(config: Config) -> Spec:
    """Observations and actions of the run: those of the recording if there is one, else of the environment."""
    if config.data.path is not None:
        spec = open_format(config.data.path).spec(Path(config.data.path))
    else:
        env = make_env(config, 1)
        spec = env.spec
        env.close()
    if registry.get("model", config.model.name).needs_image:
        _ = spec.image  # raises UserError if there is none
    return spec


def make_learner(config: Config, spec: Spec) -> Learner:
    """The model and the trainable parts of the agent, initialised from `train.seed`.

    torch's global random state is neither read nor changed, so that several threads may make learners.
    """
    with DrawFrom(torch.Generator().manual_seed(config.train.seed)):
        model = registry.get("model", config.model.name)(config.model, spec)
        return Learner({"model": model, **registry.get("agent", config.agent.name).modules(config.agent, model, spec)})


def make_objective(config: Config, learner: Learner) -> TrainingObjective:
    """The weighted sum of losses. UserError where a loss does not fit the learner."""
    return TrainingObjective(learner, config.loss, config.allow_dead_losses)


def make_agent(config: Config, learner: Learner) -> Agent:
    """The agent of the config, acting with the parts of `learner`."""
    return registry.get("agent", config.agent.name).build(config.agent, learner)


def make_agents(config: Config, learner: Learner) -> dict[str, Agent]:
    """The agent of the config, and MPC with each of `compare_planners` and the planner's default options; by name.

    These have the other options of the config's agent, if that is MPC too.
    """
    agent = make_agent(config, learner)
    agents = {agent.name: agent}
    for name in config.compare_planners:
        if name not in agents:
            base = config.agent if isinstance(config.agent, MPC.Config) else MPC.Config()
            agents[name] = MPC.build(replace(base, planner=component_config("planner", name)), learner)
    return agents
