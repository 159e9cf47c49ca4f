"""Collecting while training, by period or by ratio: in the metrics, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies.harness.cell import learning_curve

from isochrone.core.errors import UserError
from isochrone.recipes.schema import DataConfig
from isochrone.training.run import Run
from isochrone.training.sinks import open_sinks
from isochrone.workflows import dataset, factory, train
from isochrone.workflows.replay_source import ReplaySource

SMALL = {
    "env.episode_length": "8", "data.num_envs": "3", "data.rows": "18", "data.capacity": "40",
    "data.collect_steps": "9", "data.collect_every": "3", "data.holdout_fraction": "0.34",
    "train.steps": "10", "train.batch": "2", "train.length": "6",
    "train.save_every": "2", "train.log_every": "2", "train.eval_every": "5", "train.keep": "9",
    "eval.return_episodes": "2",
    "model.hidden": "16", "model.deter": "16", "model.stoch": "4", "model.embed": "16", "model.head_units": "16",
    "model.decode_rows": "2", "planner.candidates": "4", "planner.iterations": "1", "planner.elites": "2",
    "planner.horizon": "3", "optim.model.warmup": "0", "model.subtract_mean_frame": "true",
}  # fmt: skip


def trained(path: Path, steps: int = 10, resume: bool = False) -> Run:
    if resume:
        training = train.resume(path)
    else:
        training = train.create_run(factory.make_config("planet_small", {**SMALL}), path)
    run, total_steps = training.run, training.config.train.steps
    sinks = open_sinks(["jsonl"], run, total_steps)
    stop = []

    def tick(step: int) -> None:
        if step == steps and steps < total_steps:
            stop.append(step)
            raise KeyboardInterrupt

    try:
        train.fit_run(training, sinks, tick)
    except KeyboardInterrupt:
        assert stop
    finally:
        for sink in sinks:
            sink.close()
        run.close()
    return run


def weights(run: Run) -> bytes:
    return (run.trained() / "weights.safetensors").read_bytes()


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.slow
def test_collecting_run_resumes_exactly(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    collections = [row for row in rows(whole) if "collect/return" in row]
    assert len(collections) == 3
    assert all(row["collect/episodes"] == 3 for row in collections), "one episode in each of three environments"
    assert [row["collect/frames"] for row in collections] == [54 + 27, 54 + 54, 54 + 81]
    assert sum("eval/return" in row for row in rows(whole)) == 2
    with Run.open(tmp_path / "whole") as run:
        curve = learning_curve(run)
    played = [row for row in rows(whole) if "eval/return" in row]  # without noise, so these are preferred
    assert [value for _, value in curve] == [pytest.approx(row["eval/return"], rel=1e-5) for row in played]
    assert [frames for frames, _ in curve] == [54 + 27, 54 + 81], "what was seen by steps 5 and 10"
    trained(tmp_path / "cut", steps=7)
    cut = trained(tmp_path / "cut", resume=True)
    assert weights(cut) == weights(whole)
    assert [r.get("collect/return") for r in rows(cut)] == [r.get("collect/return") for r in rows(whole)]


@pytest.mark.slow
def test_the_mean_frame_is_measured_once_before_the_first_step(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", steps=2)
    config = factory.make_config("planet_small", SMALL)
    replay = dataset.fill_replay(config, None)  # as the run recorded it
    envs = dataset.holdout_split(config, replay)[0]
    seen = replay.sample(400, 1, torch.Generator().manual_seed(0), envs).obs["image"] / 255 - 0.5
    still = load_file(run.trained() / "weights.safetensors")["model.mean_frame"]
    assert still.std() > 0.05, "the static background"
    torch.testing.assert_close(still, seen.mean((0, 1)), atol=0.12, rtol=0)  # of other frames: the box is elsewhere
    again = trained(tmp_path / "run", resume=True)
    assert torch.equal(load_file(again.trained() / "weights.safetensors")["model.mean_frame"], still)


def test_a_ratio_is_a_period_counted_in_environment_steps() -> None:
    by_period = DataConfig(collect_every=3, num_envs=3, collect_steps=8)
    by_ratio = DataConfig(train_ratio=0.125, num_envs=3, collect_steps=8)  # 24 environment steps every 3 steps
    steps = range(20)
    assert [by_ratio.collections(n) for n in steps] == [by_period.collections(n) for n in steps]
    often = DataConfig(train_ratio=0.02, num_envs=3, collect_steps=8)
    assert often.collections(100) == 208, "100 steps / 0.02 = 5000 environment steps, 24 at a time"
    assert [DataConfig().collections(n) for n in steps] == [0] * 20


def test_a_source_collects_by_ratio_and_goes_on_after_a_resume() -> None:
    by_ratio = {"data.collect_every": "0", "data.train_ratio": "0.05", "data.collect_policy": "random"}
    config = factory.make_config("planet_small", {**SMALL, **by_ratio})  # 27 environment steps every 1.35 steps
    totals: list[list[int]] = []
    for cut in (False, True):
        replay, rng = dataset.fill_replay(config, None), torch.Generator().manual_seed(0)
        objective = factory.make_objective(config, factory.make_learner(config, replay.spec))
        envs = dataset.holdout_split(config, replay)[0]
        source = ReplaySource(config, replay, objective, envs)
        totals.append([])
        for step in range(7):
            if cut and step == 4:
                state, source = source.state_dict(), ReplaySource(config, replay, objective, envs)
                source.load_state_dict(state)
            source(rng)
            totals[-1].append(replay.total)
    assert totals[0] == [54 + 27 * int(step / 1.35) for step in range(7)]
    assert totals[1] == totals[0]


def test_collecting_by_period_and_by_ratio_at_once_is_refused() -> None:
    with pytest.raises(UserError, match=r"collect_every = 3 and data\.train_ratio = 1: .* set one of them to 0"):
        factory.make_config("planet_small", {**SMALL, "data.train_ratio": "1"})
    with pytest.raises(UserError, match=r"train_ratio = 1: a recording cannot be continued"):
        factory.make_config("tiny", {"data": "my.h5", "data.train_ratio": "1"})


def test_overshooting_longer_than_a_window_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.overshoot = 6: windows have only train\.length = 6 rows"):
        factory.make_config("planet_small", {**SMALL, "model.overshoot": "6"})


def test_the_capacity_of_the_replay_is_that_of_the_config(tmp_path: Path) -> None:
    config = factory.make_config("planet_small", SMALL)
    replay = dataset.fill_replay(config, None)
    assert replay.capacity == 40
    assert len(replay) == 54
    with pytest.raises(UserError, match=r"data\.num_envs = 3 x 40 rows \+ 162 to resume from .* takes"):
        dataset.fill_replay(factory.make_config("planet_small", {**SMALL, "data.budget_mb": "1"}), None)
    assert torch.equal(torch.tensor(replay.stored()), torch.full((3,), 18))
