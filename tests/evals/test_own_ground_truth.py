"""An environment with ground truth from outside, by its import path, gets the whole report, planning included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ring import Ring

from isochrone.cli import run
from isochrone.core.protocols import GroundTruth


@pytest.mark.slow
def test_an_env_from_outside_gets_the_whole_report(tmp_path: Path) -> None:
    assert isinstance(Ring(), GroundTruth)
    small = """--model.hidden 16 --model.h 8 --model.z 8 --model.p 8 --model.fourier 8 --model.depth 4
      --model.open-loop 2 --train.steps 4 --train.batch 4 --train.length 6 --optim.model.warmup 0
      --data.num-envs 4 --data.rows 40
      --eval.episodes 4 --eval.length 16 --eval.pairs 4 --eval.horizon 4 --planner.expansions 8""".split()
    words = ["train", "tiny", "--env", "ring:Ring", "--run", str(tmp_path / "run"), *small]
    assert run([*words, "--then", "eval,report"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    for family in ("openloop_latent", "perception", "reach", "planning"):
        assert [name for name in results if name.startswith(f"{family}.")], family
    assert results["planning.replay.success"]["value"] == 1.0, "shortest paths by its own distances reach their goals"
    report = (tmp_path / "run" / "report.html").read_text()
    for question in ("Does it predict?", "Is z perceptual?", "Is p reachability?", "Can one plan here?"):
        assert question in report
