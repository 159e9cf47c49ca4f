"""`import isochrone` costs at most half a second beyond torch's own, and drags in nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tree import ROOT

HEAVY = (
    "matplotlib",
    "gymnasium",
    "lightning_fabric",
    "torchvision",
    "cv2",
    "h5py",
    "tensorboard",
    "rich",
    "PIL",
    "pandas",
)
CODE = f"""
import json, sys, time
import torch
before = set(sys.modules)
start = time.process_time()
import isochrone
seconds = time.process_time() - start
print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules and name not in before]]))
"""


def measured() -> tuple[float, list[str]]:
    """Processor seconds of the import after torch's, which other work on the machine does not change much."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seconds, heavy = json.loads(done.stdout)
    return seconds, heavy


def test_import_is_light_and_quick() -> None:
    seconds: list[float] = []
    for _ in range(5):
        cost, heavy = measured()
        assert not heavy, f"import isochrone loads {heavy}"
        seconds.append(cost)
        if cost <= 0.5:
            return
    pytest.fail(f"import isochrone costs {min(seconds):.2f} s beyond torch's own; the limit is 0.5 s")
