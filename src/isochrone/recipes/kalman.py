"""A linear SSM of a linear-Gaussian environment: the ELBO beside the exact likelihood."""

from __future__ import annotations

from dataclasses import replace

from isochrone.core.config import component_config
from isochrone.evals.context import EvalConfig
from isochrone.losses.loss import LossConfig
from isochrone.models.statespace import SsmConfig
from isochrone.recipes.planet import planet
from isochrone.recipes.schema import Config, DataConfig, recipe
from isochrone.training.config import TrainConfig
from isochrone.training.optim import OptimConfig


@recipe
def kalman() -> Config:
    """A linear SSM of a linear-Gaussian environment, whose exact likelihood the Kalman filter computes."""
    return replace(
        planet(),
        env=component_config("env", "linear"),
        model=SsmConfig(
            stoch=2,
            hidden=16,
            act="none",
            norm="none",
            prior_layers=0,
            head_layers=0,
            embed=16,
            symlog=False,
            min_std=0.01,
        ),
        loss={"vectors": LossConfig(), "kl": LossConfig()},
        data=DataConfig(num_envs=64, rows=4000),
        # long windows over several episodes: the model takes the first row of a window for that of an episode
        optim={"model": OptimConfig(lr=1e-2, schedule="cosine", clip=100.0)},
        train=TrainConfig(steps=1200, batch=32, length=100, save_every=400, eval_every=0),
        eval=EvalConfig(pairs=0, episodes=32, length=40, horizon=10),
    )
