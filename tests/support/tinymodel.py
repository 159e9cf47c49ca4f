"""Small models and real windows: white-box frames, episode boundaries inside, a few milliseconds each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isochrone.core import registry
from isochrone.core.config import override
from isochrone.core.types import Batch, Spec, Struct
from isochrone.data.collect import collect, random_policy
from isochrone.data.replay import ReplayBuffer
from isochrone.envs.counter import Counter, CounterConfig
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig
from isochrone.losses.loss import LossConfig
from isochrone.losses.objective import TrainingObjective
from isochrone.training.learner import Learner

SMALL = {
    "z": 8,
    "h": 16,
    "p": 8,
    "hidden": 32,
    "depth": 4,
    "fourier": 8,
    "open_loop": 4,
    "rollout_starts": 3,
    "decode_rows": 4,
}
SMALL |= {"deter": 16, "stoch": 5, "embed": 8, "head_units": 16, "encoder": "patch", "overshoot": 3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighted(**weights: float) -> dict[str, LossConfig]:
    """Losses in their default settings, by weight."""
    return {name: LossConfig(weight) for name, weight in weights.items()}


def objective(model: Any, losses: Mapping[str, LossConfig], allow_dead_losses: bool = False) -> TrainingObjective:
    """The training objective of a learner with one part."""
    return TrainingObjective(Learner({"model": model}), losses, allow_dead_losses)


def fits(model: str, changes: Mapping[str, Any]) -> bool:
    """Does this model have all these options?"""
    return set(changes) <= {f.name for f in dataclasses.fields(registry.get("model", model).Config)}


def tiny(model: str = "zhp", spec: Spec | None = None, seed: int = 0, **changes: Any) -> Any:
    """The registered model at test size, weights drawn from `seed`."""
    cls = registry.get("model", model)
    known = {f.name for f in dataclasses.fields(cls.Config)}
    config = override(cls.Config(), {**{k: v for k, v in SMALL.items() if k in known}, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(config, spec or make_env().spec)


@cache
def make_env(actions: str = "discrete", length: int = 6, num_envs: int = 2, map: str = "pipes") -> WhiteBox:
    """Episodes of `length` actions, shorter than the windows, so that every window crosses an episode's end.

    All begin beside a pipe: then places are seen again, and losses on revisits and teleports wake on few frames.
    """
    options: Any = {"map": map, "actions": actions, "episode_length": length, "start": "2,2"}
    config = WhiteBoxConfig(**options)
    return WhiteBox(config, num_envs=num_envs)


@cache
def recorded(actions: str = "discrete", length: int = 6, rows: int = 240, map: str = "pipes") -> ReplayBuffer:
    """A replay of a random walk."""
    env = make_env(actions, length, map=map)
    replay = ReplayBuffer(env.spec, env.num_envs, rows)
    rng = generator(1)
    collect(env, random_policy(env.spec.action, rng), replay, rows * env.num_envs, rng)
    return replay


def windows(
    count: int = 2, batch: int = 6, length: int = 12, actions: str = "discrete", episode: int = 6
) -> list[Batch]:
    """`count` batches of real windows."""
    replay = recorded(actions)
    return [replay.sample(batch, length, generator(10 + i)) for i in range(count)]


@cache
def counter() -> Counter:
    """Two counters: vectors beside pixels, rewards, terminal rows."""
    return Counter(CounterConfig(length=4, actions=5, size=16), num_envs=2)


def counted(count: int = 2, batch: int = 6, length: int = 12) -> list[Batch]:
    """`count` batches of windows of the counting environment."""
    env = counter()
    replay, rng = ReplayBuffer(env.spec, env.num_envs, 120), generator(1)
    collect(env, random_policy(env.spec.action, rng), replay, 240, rng)
    return [replay.sample(batch, length, generator(10 + i)) for i in range(count)]


# Ways to build a model, where it has these options.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "odometry": {"imagine_p": "odometry"},
    "running sum": {"pose": "summed"},
    "residual": {"metric": "residual"},
    "conv": {"encoder": "conv"},
    "no Fourier": {"fourier": 0},
    "categorical": {"classes": 6},
    "layer norm, learned start": {"cell": "ln_gru", "norm": "layer", "initial_state": "learned", "classes": 6},
    "blocks": {"cell": "block_gru", "norm": "rms", "act": "silu"},
    "decoupled": {"posterior": "decoupled"},
    "deeper": {"prior_layers": 2, "posterior_layers": 2, "image_bits": 5},
}


def made(name: str, variant: str = "default") -> Any:
    """The registered model at test size, in a variant."""
    return tiny(name, **VARIANTS[variant])


def same(a: Struct, b: Struct) -> None:
    """Equal up to rounding, field by field."""
    for field in vars(a):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), atol=1e-5, rtol=1e-4, msg=field)


def filtered(model: Any, batch: Batch) -> list[Any]:
    """States after each row of each window, frame by frame; a first row begins again."""
    state, states = model.start(batch.shape[0]), []
    for t in range(batch.shape[1]):
        fresh = model.start(batch.shape[0])
        now = {k: torch.where(_wide(batch.first[:, t], v), getattr(fresh, k), v) for k, v in vars(state).items()}
        action = batch.action[:, t - 1] if t else torch.zeros_like(batch.action[:, 0])
        state = model.update(state.replace(**now), action, {k: v[:, t] for k, v in batch.obs.items()})
        states.append(state)
    return states


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.dim() - 1))
