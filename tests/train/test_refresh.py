"""Collecting while training: whole episodes by the agent, told in the metrics, the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies.harness.cell import learning_curve

from isochrone.core.errors import UserError
from isochrone.train.run import Run
from isochrone.train.sinks import open_sinks
from isochrone.workflows import dataset, factory, train

SMALL = {
    "env.episode_length": "8", "data.num_envs": "3", "data.rows": "18", "data.capacity": "40",
    "data.collect_steps": "9", "data.collect_every": "3", "data.holdout_fraction": "0.34",
    "train.steps": "10", "train.batch": "2", "train.length": "6",
    "train.save_every": "2", "train.log_every": "2", "train.eval_every": "5", "train.keep": "9",
    "eval.return_episodes": "2",
    "model.hidden": "16", "model.deter": "16", "model.stoch": "4", "model.embed": "16", "model.head_units": "16",
    "model.decode_rows": "2", "planner.candidates": "4", "planner.iterations": "1", "planner.elites": "2",
    "planner.horizon": "3", "train.warmup": "0", "model.subtract_mean_frame": "true",
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


def test_episodes_are_collected_and_told_and_a_resume_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    told = [row for row in rows(whole) if "collect/return" in row]
    assert len(told) == 3 and all(row["collect/episodes"] == 3 for row in told), "three environments, three collections"
    assert [row["collect/frames"] for row in told] == [54 + 27, 54 + 54, 54 + 81]
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


def test_what_stands_still_is_measured_once_before_the_first_step(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", steps=2)
    config = factory.make_config("planet_small", SMALL)
    replay = dataset.fill_replay(config, None)  # as the run recorded it
    envs = dataset.holdout_split(config, replay)[0]
    seen = replay.sample(400, 1, torch.Generator().manual_seed(0), envs).obs["image"] / 255 - 0.5
    still = load_file(run.trained() / "weights.safetensors")["still"]
    assert still.std() > 0.05, "walls and floor"
    torch.testing.assert_close(still, seen.mean((0, 1)), atol=0.12, rtol=0)  # of other frames: the box is elsewhere
    again = trained(tmp_path / "run", resume=True)
    assert torch.equal(load_file(again.trained() / "weights.safetensors")["still"], still)


def test_a_window_that_cannot_hold_its_overshooting_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UserError, match=r"model\.overshoot = 6: windows have only train\.length = 6 rows"):
        factory.make_config("planet_small", {**SMALL, "model.overshoot": "6"})


def test_the_ring_keeps_what_it_was_told_to(tmp_path: Path) -> None:
    config = factory.make_config("planet_small", SMALL)
    replay = dataset.fill_replay(config, None)
    assert replay.capacity == 40 and len(replay) == 54
    with pytest.raises(UserError, match=r"data\.num_envs = 3 x 40 rows \+ 162 to resume from .* takes"):
        dataset.fill_replay(factory.make_config("planet_small", {**SMALL, "data.budget_mb": "1"}), None)
    assert torch.equal(torch.tensor(replay.stored()), torch.full((3,), 18))
