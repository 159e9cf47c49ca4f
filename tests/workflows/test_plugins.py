"""Components of an outside package, by import path and by entry point: trained, then opened in new processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT

MODULE = '''
"""A package that knows isochrone, and that isochrone does not know."""

import os
from pathlib import Path

from isochrone.losses.loss import loss
from isochrone.models.zhp import ZHP
from isochrone.planners.shooting import Shooting

Path(os.environ["IMPORTED"]).touch()


class Model(ZHP):
    """zhp under another name."""


class Planner(Shooting):
    """Random shooting under another name."""


@loss("mean_square_z", updates={"encoder"}, reads={"z"}, source="this test")
def mean_square_z(model, rollout, settings):
    """z towards 0."""
    return rollout.z.square().mean()
'''
ENTRY_POINTS = """
[isochrone.model]
outside_model = outside:Model

[isochrone.loss]
mean_square_z = outside:mean_square_z

[isochrone.planner]
outside_planner = outside:Planner
"""
SMALL = """--model.hidden 16 --model.h 8 --model.z 8 --model.p 8 --model.fourier 8 --model.depth 4 --model.open-loop 2
  --train.batch 4 --train.length 6 --optim.model.warmup 1 --train.steps 2 --data.num-envs 8 --data.rows 40
  --eval.episodes 4 --eval.length 16 --eval.pairs 4 --eval.horizon 4 --then""".split()
TRUST = "add --trust (in Python: trust=True) if you trust it"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with the outside module. A file `imported` beside it appears when it is imported."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "outside.py").write_text(MODULE)
    return folder


def run(outside: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    """A new Python process, and whether it imported the outside module."""
    marker = outside / "imported"
    marker.unlink(missing_ok=True)
    path = os.pathsep.join([str(ROOT / "src"), str(outside)])
    env = {**os.environ, "PYTHONPATH": path, "IMPORTED": str(marker), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    words = (sys.executable, *words)
    done = subprocess.run(words, env=env, cwd=outside.parent, capture_output=True, text=True, timeout=300)
    return done, marker.exists()


def isochrone(outside: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    return run(outside, "-m", "isochrone", *words)


@pytest.mark.slow
def test_components_by_import_path(outside: Path) -> None:
    choice = ["--model", "outside:Model", "--planner", "outside:Planner", "--loss.outside:mean_square_z", "0.1"]
    done, _ = isochrone(outside, "train", "tiny", *SMALL, "", *choice, "--run", "r")
    assert done.returncode == 0, done.stderr
    config = json.loads((outside.parent / "r" / "config.json").read_text())
    assert config["model"]["name"] == "outside:Model"
    assert config["agent"]["planner"]["name"] == "outside:Planner"
    assert config["loss"]["outside:mean_square_z"]["weight"] == 0.1

    commands = [["eval", "r"], ["plan", "r"], ["report", "r"], ["train", "--resume", "r"]]
    code = f"from isochrone.cli import run; print([run(words) for words in {commands}])"
    done, imported = run(outside, "-c", code)
    assert done.stdout.endswith("[2, 2, 2, 2]\n")
    messages = done.stderr.strip().splitlines()
    assert len(messages) == len(commands)
    assert all("is code from outside isochrone" in line and line.endswith(TRUST) for line in messages)
    assert not imported
    done, _ = isochrone(outside, "eval", "r", "--trust", "--no-figures", "--json")
    assert done.returncode == 0, done.stderr
    assert "holdout.mean_square_z" in json.loads(done.stdout)
    done, _ = isochrone(outside, "train", "--resume", "r", "--trust")
    assert done.returncode == 0, done.stderr
    code = "import isochrone; print(type(isochrone.load('r', trust=True).model).__name__)"
    assert run(outside, "-c", code)[0].stdout.strip() == "Model"


@pytest.mark.slow
def test_components_by_entry_point_need_no_trust(outside: Path) -> None:
    info = outside / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    choice = ["--model", "outside_model", "--planner", "outside_planner", "--loss.mean_square_z", "0.1"]
    done, _ = isochrone(outside, "train", "tiny", *SMALL, "", *choice, "--run", "r")
    assert done.returncode == 0, done.stderr
    config = json.loads((outside.parent / "r" / "config.json").read_text())
    assert config["model"]["name"] == "outside_model"
    assert config["loss"]["mean_square_z"]["weight"] == 0.1
    done, _ = isochrone(outside, "eval", "r", "--no-figures", "--json")
    assert done.returncode == 0, done.stderr
    assert "holdout.mean_square_z" in json.loads(done.stdout)
    done, imported = isochrone(outside, "list", "planner")
    assert "outside_planner" in done.stdout
    assert imported, "its line of documentation is shown"


def test_a_gymnasium_id_with_a_module_needs_trust(outside: Path, tmp_path: Path) -> None:
    from isochrone.core import registry
    from isochrone.core.config import component_config, from_dict, to_dict
    from isochrone.core.errors import UserError

    config = component_config("env", "gym:outside:Some-v0")
    assert config.id == "outside:Some-v0"
    with pytest.raises(UserError, match="env.id = 'outside:Some-v0' is code from outside isochrone"):
        from_dict(type(config), to_dict(config), "env.")
    with registry.trusted():
        assert from_dict(type(config), to_dict(config), "env.") == config
