"""Stopped and resumed through the command line: the same weights, bit for bit; Ctrl-C leaves with 130."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from isochrone.training.console import Console

pytestmark = pytest.mark.slow

REFRESH = {
    "static": [],
    "random": ["--data.collect-every", 2, "--data.collect-steps", 6, "--data.collect-policy", "random"],
    "agent": ["--data.collect-every", 2, "--data.collect-steps", 6, "--planner.horizon", 3],
}


def weights(run: Path) -> bytes:
    return (run / "checkpoints/00000006/weights.safetensors").read_bytes()


@pytest.mark.parametrize("source", REFRESH)
def test_resumed_is_the_same_bits(isochrone, small, tmp_path, monkeypatch, source: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [*small, *REFRESH[source], "--train.steps", 6, "--then", ""]
    assert isochrone("train", "tiny", *words, "--run", whole).code == 0

    tick = Console.tick

    def stop_at_three(self: Console, step: int) -> None:
        tick(self, step)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Console, "tick", stop_at_three)
        done = isochrone("train", "tiny", *words, "--run", cut)
    assert done.code == 130
    assert f"isochrone train --resume {cut}" in done.err
    assert (cut / "checkpoints/00000003/manifest.json").exists()

    assert isochrone("train", "--resume", cut).code == 0
    assert weights(whole) == weights(cut)


def test_a_complete_run_stays_as_it_is(isochrone, trained: Path) -> None:
    before = weights(trained)
    done = isochrone("train", "--resume", trained)
    assert done.code == 0
    assert "it already was" in done.err
    assert weights(trained) == before


def test_a_run_killed_while_recording_records_again(isochrone, small, tmp_path, monkeypatch) -> None:
    from isochrone.workflows import dataset

    words = [*small, "--train.steps", 6, "--then", ""]
    assert isochrone("train", "tiny", *words, "--run", tmp_path / "whole").code == 0

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "collect", killed)
        assert isochrone("train", "tiny", *words, "--run", tmp_path / "cut").code == 130
    assert isochrone("train", "--resume", tmp_path / "cut").code == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
