"""What a training needs is estimated before it starts, and refused where the machine has less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.training import machine
from isochrone.workflows import dataset, factory, requirements, train

CHANGES = {"model.hidden": 16, "model.z": 8, "model.h": 8, "model.p": 8, "model.fourier": 8, "model.depth": 4}


def build(**changes: object):
    config = factory.make_config("tiny", CHANGES | {name.replace("__", "."): value for name, value in changes.items()})
    spec, objective = train.build_all(config)
    return config, spec, objective


def test_the_estimate_of_a_batch_is_close_to_what_a_step_takes() -> None:
    config, spec, objective = build(train__batch=8, train__length=12)
    estimated = requirements.activation_bytes(config, spec, objective)
    config, spec, objective = build(train__batch=64, train__length=12)
    assert requirements.activation_bytes(config, spec, objective) == pytest.approx(8 * estimated, rel=0.01)

    shape = (8, 12)
    from isochrone.core.types import Batch

    no = torch.zeros(shape, dtype=torch.bool)
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(256, (*shape, *spec.image), dtype=torch.uint8, generator=rng)
    batch = Batch({"image": image}, spec.action.sample(shape, rng), torch.zeros(shape), no, no, no)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss, _ = objective(batch, rng)
    taken = sum(e.self_cpu_memory_usage for e in profile.key_averages())  # allocated less freed: what is kept
    assert loss.requires_grad
    assert taken / 2 < estimated < 3 * taken


def test_weights_are_counted_without_making_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config, spec, objective = build()
    needs = requirements.estimate(config, spec, objective, replay=7)
    weights = sum(4 * p.numel() for p in objective.parameters())
    assert needs.weights == pytest.approx(4 * weights, rel=0.05)
    assert needs.disk == 7 + needs.checkpoints

    asked: list[int] = []
    monkeypatch.setattr(requirements, "check_memory", lambda need, *_: asked.append(need))
    requirements.check_weights(config, spec)
    assert asked == [needs.weights]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.hidden", 65536], "the weights and the optimiser: about"),
        (["--train.batch", 65536, "--train.length", 30], "lower train.batch"),
        (["--train.threads", 100000], "train.threads = 100000: must be at most 256"),
        (["--train.seed", 2**64], "train.seed = 18446744073709551616: must be at most 9223372036854775807"),
        (["--optim.model.weight-decay", "inf"], "optim.model.weight_decay = inf"),
        (["--loss.jepa", "1e300"], "loss.jepa.weight = 1e+300"),
        (["--data.num-envs", 10**9], "must be at most 65536"),
        (["--eval.seed", 2**63], "must be at most 9223372036854775807"),
        (["--env.episode-length", 10**30], "must be at most 1000000"),
        (["--then", "eval,eval"], "then = 'eval,eval': must be a list without repetitions"),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else "",
)
def test_too_much_is_refused(options: list, words: str, tmp_path: Path, capsys, monkeypatch) -> None:
    from isochrone.cli import run

    monkeypatch.setattr(machine, "memory", lambda: 8_000_000_000)
    assert run(["train", "tiny", "--run", str(tmp_path / "r"), *map(str, options)]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("isochrone: ")]
    assert words in line
    assert not (tmp_path / "r").exists()


def test_a_full_disk_is_refused_before_anything_is_made(tmp_path: Path, capsys, monkeypatch) -> None:
    from isochrone.cli import run

    monkeypatch.setattr(machine, "free_disk", lambda path: 1000)
    assert run(["train", "tiny", "--run", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert re.search(r"needs about \d+\.\d MB of memory \(weights and optimiser .* on disk \(replay .*\)", err)
    assert f"at {tmp_path / 'r'} (replay" in err.splitlines()[-1]
    assert "free some space" in err.splitlines()[-1]
    assert not (tmp_path / "r").exists()


def test_what_the_machine_has(tmp_path: Path) -> None:
    memory, disk = machine.memory(), machine.free_disk(tmp_path / "not" / "there")
    assert memory is None or memory > 10**8
    assert disk is not None
    assert disk > 0


def test_the_replay_of_a_run_is_counted(tmp_path: Path) -> None:
    config, spec, _ = build(data__num_envs=4, data__rows=10)
    with pytest.raises(UserError, match="the replay: about"):
        requirements.check_memory(10**18, "the replay", "lower it")
    assert dataset.replay_bytes(config, spec) == 4 * 10 * dataset.row_bytes(spec)
