"""Real processes: killed at random instants and resumed, the weights are the same bits; Ctrl-C ends cleanly."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isochrone.training import checkpoint

pytestmark = pytest.mark.slow


class Nursery:
    def __init__(self):
        script = Path(__file__).with_name("toy_nursery.py")
        pipe, env = subprocess.PIPE, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process: Any = subprocess.Popen([sys.executable, str(script)], stdin=pipe, stdout=pipe, text=True, env=env)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, **order):
        self.process.stdin.write(json.dumps(order, default=str) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["pid"]

    def end(self):
        return json.loads(self.process.stdout.readline())["end"]


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.process.stdin.close()
    made.process.stdout.close()
    made.process.wait(timeout=20)


def until(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.005)


def test_killed_and_resumed_is_the_same_bits(nursery, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    nursery.start(run=whole, steps=150, pause=0.002)
    assert nursery.end() == 0
    took = time.monotonic() - began
    draw = random.Random(5)
    ends = []
    for _ in range(5):
        nursery.start(run=cut, steps=150, pause=0.002, kill_after=draw.uniform(0.0, 0.3 * took))
        ends.append(nursery.end())
    assert ends.count(-signal.SIGKILL) >= 4
    assert set(ends) <= {0, -signal.SIGKILL}
    nursery.start(run=cut, steps=150)
    assert nursery.end() == 0
    for name in checkpoint.FILES:
        at = Path("checkpoints/00000150") / name
        assert (whole / at).read_bytes() == (cut / at).read_bytes()
    steps = [[json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] for run in (whole, cut)]
    assert steps[0] == steps[1] == list(range(10, 151, 10))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_with_a_checkpoint(nursery, tmp_path, kind):
    run = tmp_path / "run"
    pid = nursery.start(run=run, steps=100_000, pause=0.002)
    until(lambda: len(checkpoint.steps(run / "checkpoints")) > 1)
    os.kill(pid, kind)
    assert nursery.end() == 3  # ended by a signal, and said so
    found = checkpoint.latest(run / "checkpoints")
    rows = (
        [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
        if (run / "metrics.jsonl").exists()
        else []
    )
    assert found is not None
    assert int(found.name) >= max(rows, default=0)
    pid = nursery.start(run=run, steps=int(found.name) + 3)
    assert nursery.end() == 0
    assert checkpoint.steps(run / "checkpoints")[-1] == int(found.name) + 3
