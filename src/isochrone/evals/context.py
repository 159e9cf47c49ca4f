"""What an evaluation works with: the model, a recording, an environment, agents; and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from isochrone.core.config import option
from isochrone.core.types import Batch
from isochrone.evals.model_access import model_device
from isochrone.evals.progress import Progress


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation covers."""

    name: ClassVar[str] = "eval"
    episodes: int = option(64, "episodes recorded for the metrics (at most one per environment row)", ge=2, le=65_536)
    length: int = option(64, "rows per recorded episode", ge=4, le=65_536)
    pairs: int = option(500, "held-out start and goal pairs for planning (0: no planning)", ge=0, le=65_536)
    horizon: int = option(16, "steps of the open-loop metrics", ge=1, le=65_536)
    return_episodes: int = option(
        32, "episodes played for the return, where the agent plans for reward", ge=1, le=65_536
    )
    budget: int = option(0, "environment steps per pair (0: twice the longest shortest path, plus 8)", ge=0, le=100_000)
    seed: int = option(7, "seed of the recording and of the pairs; independent of the training seed", ge=0)


@dataclass(frozen=True)
class Context:
    """Everything that a family of metrics may read. What an evaluation does not have is None or empty."""

    model: Any
    config: EvalConfig
    rng: torch.Generator
    batch: Batch | None = None  # (B, T) recorded rows that the model was not trained on
    truth: Any = None  # RecordedTruth of the same rows, where the environment has ground truth
    env: Any = None  # `config.episodes` environments (fewer are accepted)
    agents: Mapping[str, Any] = field(default_factory=dict)
    plans_to_goals: bool = True  # every agent needs a goal
    make_env: Callable[[int], Any] | None = None  # environments in which to play whole episodes for their return
    holdout_losses: Callable[[], Mapping[str, float]] | None = None  # mean of every loss on data never trained on
    clock: Callable[[], float] | None = None  # seconds, e.g. time.perf_counter
    progress: Progress | None = None  # called during what takes long
    stream: Callable[[str], torch.Generator] | None = None  # a generator of its own for each family

    def rng_of(self, family: str) -> torch.Generator:
        """The family's own generator; without `stream` one seeded with `config.seed`."""
        return self.stream(family) if self.stream is not None else torch.Generator().manual_seed(self.config.seed)

    @property
    def device(self) -> torch.device:
        return model_device(self.model)

    @property
    def rows(self) -> Batch:
        """The recording. ValueError without one: a family that reads it names `recorded` or GroundTruth in `needs`."""
        if self.batch is None:
            raise ValueError("this context has no recording")
        return self.batch


def recorded(context: Context) -> bool:
    """There is a recording."""
    return context.batch is not None


def plans_between_pairs(context: Context) -> bool:
    """Planning between pairs of places was asked for, and every agent needs a goal."""
    return context.plans_to_goals and context.config.pairs > 0


def plays_episodes(context: Context) -> bool:
    """There are agents to play whole episodes for their return."""
    return bool(context.agents) and context.make_env is not None
