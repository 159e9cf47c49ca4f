"""Windows of a replay at chosen places, instead of sampled ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isochrone.core.types import Batch
from isochrone.data.replay import ReplayBuffer


def windows_at(replay: ReplayBuffer, envs: Sequence[int], starts: Sequence[int], length: int) -> Batch:
    """The windows that begin `starts` rows after the oldest stored row of `envs`; (B) each."""
    return replay._windows(np.asarray(envs, np.int64), np.asarray(starts, np.int64), length)
