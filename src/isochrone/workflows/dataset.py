"""The training data of a run: recorded from the environment or loaded from a recording, within the memory budget."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Int64

from isochrone.core import gate
from isochrone.core.errors import UserError
from isochrone.core.files import save_json
from isochrone.core.types import Spec
from isochrone.data.collect import collect, random_policy
from isochrone.data.episode import Episode, StoredSpec, spec_to_dict
from isochrone.data.replay import ReplayBuffer, row_bytes, split_envs
from isochrone.data.source import assign, check_lengths, check_size, histories, load_into, open_format, size_of
from isochrone.recipes.schema import Config
from isochrone.training.device import generator
from isochrone.workflows import factory, requirements

log = logging.getLogger(__name__)
COMPLETE = "complete.json"
"""The file in a replay's folder that is written last."""


class Complete(gate.Strict):
    """complete.json: what was recorded before training."""

    rows: int
    spec: StoredSpec


def check_budget(config: Config, spec: Spec) -> None:
    """UserError if the replay would need more memory than `data.budget_mb`."""
    data = config.data
    margin = resume_margin(config)
    need = replay_bytes(config, spec)
    if data.path is None and need > data.budget_mb * 1e6:
        more = f" + {margin} to resume from (fewer with a smaller train.save_every)" if margin else ""
        raise UserError(
            f"data.num_envs = {data.num_envs} x {capacity(config)} rows{more} takes {need / 1e6:.0f} MB, more than "
            f"data.budget_mb = {data.budget_mb}: raise the budget or collect less"
        )


def replay_bytes(config: Config, spec: Spec) -> int:
    """Bytes of the run's replay; 0 for a recording whose format does not know its lengths."""
    if config.data.path is None:
        return config.data.num_envs * (capacity(config) + resume_margin(config)) * row_bytes(spec)
    lengths = open_format(config.data.path).lengths(Path(config.data.path))
    if lengths is None or not len(lengths):
        return 0
    filled = assign(lengths, histories(lengths))[1]
    return len(filled) * int(filled.max()) * row_bytes(spec)


def check_recording(config: Config, spec: Spec) -> None:
    """UserError if `data.path` is too large for the budget, or cannot be split into training and holdout.

    The rows are not read: a recording whose format does not know its lengths beforehand is checked when it is loaded.
    """
    path = config.data.path
    lengths = None if path is None else open_format(path).lengths(Path(path))
    if path is None or lengths is None:
        return
    check_lengths(path, lengths)
    if len(lengths) < 2:
        raise UserError(
            f"{path} holds {len(lengths)} episode, and a holdout needs another one: cut it in several, for example by "
            f"isochrone data convert {path} --out cut.h5 --cut 200"
        )
    env_of, filled = assign(lengths, histories(lengths))
    check_size(path, spec, filled, config.data.budget_mb)
    _split(config, filled)


def capacity(config: Config) -> int:
    """Rows of each environment that can be sampled."""
    return max(config.data.rows, config.data.capacity)


def resume_margin(config: Config) -> int:
    """Older rows that stay in the replay: a resumed run needs all that it could sample at its oldest checkpoint."""
    period, save = config.data.period, config.train.save_every or config.train.steps
    return math.ceil(save / period + 1) * config.train.keep * config.data.collect_steps if period else 0


def fill_replay(config: Config, folder: Path | None, progress: Callable[[int], None] | None = None) -> ReplayBuffer:
    """The run's replay in `folder` (None: in RAM): opened if it is complete there, else recorded or loaded.

    Recording depends on the config alone, so a run that was killed meanwhile starts over and gets the same rows.
    """
    if folder is not None and has_replay(folder):
        replay = open_replay(folder)
        log.info(replay.describe())
        return replay
    if folder is not None:
        shutil.rmtree(gate.check_folder(folder), ignore_errors=True)
    if config.data.path is not None:
        replay = load_into(config.data.path, folder, budget_mb=config.data.budget_mb)
        log.info("%s; the recording takes %.1f MB", replay.describe(), size_of(Path(config.data.path)) / 1e6)
    else:
        replay = _record(config, folder, progress)
    replay.flush()
    if folder is not None:
        save_json(folder / COMPLETE, {"rows": len(replay), "spec": spec_to_dict(replay.spec)})
    return replay


def has_replay(folder: Path) -> bool:
    """Whether a complete replay is in `folder`: False where it was deleted, or is being recorded."""
    return gate.exists(gate.check_folder(folder) / COMPLETE)


def kept_replay(folder: Path) -> bool:
    """Whether the replay of a run that has a checkpoint is there: False where it was deleted as a whole.

    UserError where only a part of it is left.
    """
    if gate.exists(folder) and not has_replay(folder):
        raise UserError(
            f"{folder} is damaged: {COMPLETE} is missing; restore it from a copy, or move what is left away"
        )
    return gate.exists(folder)


def open_replay(folder: Path, write: bool = True) -> ReplayBuffer:
    """The complete replay in `folder`, every row verified. UserError: which file is missing or damaged."""
    stored = gate.read_json(folder / COMPLETE, Complete)
    replay = ReplayBuffer.open(folder, write)
    if msgspec.to_builtins(stored.spec) != spec_to_dict(replay.spec):
        raise UserError(f"{folder / COMPLETE} is damaged: its spec is not that of replay.json")
    if not len(replay):
        raise UserError(f"{folder} is damaged: it is complete, but its cursor.json says that it holds no rows")
    replay.verify()
    return replay


def _record(config: Config, folder: Path | None, progress: Callable[[int], None] | None) -> ReplayBuffer:
    data, env = config.data, factory.make_env(config, config.data.num_envs)
    check_budget(config, env.spec)
    if folder is None:
        requirements.check_memory(replay_bytes(config, env.spec), "the replay", "lower data.num_envs or data.rows")
    replay = ReplayBuffer(env.spec, data.num_envs, capacity(config), folder, resume_margin(config))
    log.info(replay.describe())
    rng = generator(config.train.seed, "collect")
    act = random_policy(env.spec.action, rng, data.hold_steps)
    collect(env, act, replay, data.num_envs * data.rows, rng, progress, where=factory.env_text(config))
    env.close()
    return replay


def holdout_split(config: Config, replay: ReplayBuffer) -> tuple[list[int], list[int]]:
    """(environments to train on, environments of the holdout)."""
    return _split(config, replay.stored())


def _split(config: Config, rows: Int64[np.ndarray, "num_envs"]) -> tuple[list[int], list[int]]:
    """As `holdout_split`, of environments with so many rows each: both sides can be sampled. UserError if not."""
    windows = np.maximum(rows - config.train.length + 1, 0)
    if not windows.any():
        raise UserError(
            f"train.length = {config.train.length}: no history in the replay is that long (the longest has "
            f"{rows.max()} rows): shorten train.length, or record more"
        )
    return split_envs(len(rows), config.data.holdout_fraction, config.train.seed, windows)


def complete_episodes(replay: ReplayBuffer) -> list[Episode]:
    """Every complete episode in the replay. UserError when there is none."""
    episodes = list(replay.episodes())
    if not episodes:
        raise UserError("no episode is complete yet: raise data.rows, or lower env.episode_length")
    return episodes


def write_spec(path: Path, spec: Spec) -> None:
    """Store the spec of a run (spec.json), so that its replay may be deleted."""
    save_json(path, spec_to_dict(spec))
