"""Rows that say where and when they are, for tests of the replay: every column follows from (env, time)."""

import numpy as np
import torch

from isochrone.core.types import ActionSpec, Spec, Step
from isochrone.data.episode import Episode

SPEC = Spec({"image": (3, 40, 40), "state": (2,)}, ActionSpec("discrete", 3))
SMALL = Spec({"image": (1, 2, 2), "state": (2,)}, ActionSpec("discrete", 3))


def row(spec, env, time, period=5):
    """One row that says where and when it is: the image in two bytes, the state in floats."""
    image = np.zeros(spec.obs["image"], np.uint8)
    image[0, 0, 0], image[0, 0, 1], image[0, 1, 0] = env, time % 256, time // 256
    image[:, -1, -1] = (env * 7 + time) % 256  # the far corner: a copy that stops early is seen
    return {
        "obs/image": image,
        "obs/state": np.array([env, time], np.float32),
        "action": np.eye(3, dtype=np.float32)[(env + time) % 3],
        "reward": np.float32(0 if time % period == 0 else env * 1000 + time),
        "first": time % period == 0,
        "last": time % period == period - 1,
        "terminal": time % (2 * period) == period - 1,
    }


def step_at(spec, num_envs, time, period=5):
    rows = [row(spec, env, time, period) for env in range(num_envs)]
    columns = {name: torch.from_numpy(np.stack([np.asarray(r[name]) for r in rows])) for name in rows[0]}
    obs = {"image": columns["obs/image"], "state": columns["obs/state"]}
    return Step(obs, columns["reward"], columns["first"], columns["last"], columns["terminal"]), columns["action"]


def fill(replay, steps, start=0, period=5):
    for time in range(start, start + steps):
        replay.add(*step_at(replay.spec, replay.num_envs, time, period))


def episode_at(spec, env, length, start=0):
    rows = [row(spec, env, start + t, period=10**6) for t in range(length)]
    columns = {name: np.stack([np.asarray(r[name]) for r in rows]) for name in rows[0]}
    columns["first"], columns["last"] = np.arange(length) == 0, np.arange(length) == length - 1
    columns["terminal"], columns["reward"][0] = np.zeros(length, bool), 0
    return Episode.of(columns)


def assert_window_is_true(batch, spec, period=5):
    """Every row of every window equals the row that was written, and times run on without a gap."""
    for b in range(batch.shape[0]):
        env, begin = (int(v) for v in batch.obs["state"][b, 0])
        for t in range(batch.shape[1]):
            want = row(spec, env, begin + t, period)
            assert np.array_equal(batch.obs["image"][b, t].numpy(), want["obs/image"])
            assert np.array_equal(batch.obs["state"][b, t].numpy(), want["obs/state"])
            assert np.array_equal(batch.action[b, t].numpy(), want["action"])
            for name in ("reward", "first", "last", "terminal"):
                assert getattr(batch, name)[b, t].item() == want[name], name
