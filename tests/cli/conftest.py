"""One run, trained for a moment and shared by the tests of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from isochrone.cli import run

SMALL = """--model.hidden 16 --model.h 8 --model.z 8 --model.p 8 --model.fourier 8 --model.depth 4 --model.open-loop 2
  --train.batch 4 --train.length 6 --optim.model.warmup 1 --train.log-every 2 --data.num-envs 8 --data.rows 40
  --eval.episodes 4 --eval.length 16 --eval.pairs 4 --eval.horizon 4 --planner.expansions 8""".split()
"""Options that make the recipe 'tiny' a matter of a second."""


class Said(NamedTuple):
    """What a command left with and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def isochrone(capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: isochrone('eval', 'runs/a') -> Said."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 'tiny' after six steps. Tests must not change it."""
    path = tmp_path_factory.mktemp("cli") / "run"
    words = ["--run", str(path), "--train.steps", "6", "--train.eval-every", "6", "--train.save-every", "3"]
    assert run(["train", "tiny", *SMALL, *words, "--then", ""]) == 0
    return path


@pytest.fixture(scope="session")
def small() -> list[str]:
    return list(SMALL)
