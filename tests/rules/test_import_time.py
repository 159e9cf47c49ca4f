"""`import isochrone` takes at most 0.05 s and loads neither torch nor anything else that is slow to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tree import ROOT

LIMIT = 0.05
SLOW = "torch numpy matplotlib gymnasium lightning_fabric torchvision cv2 h5py tensorboard rich PIL pandas".split()
CODE = f"""
import json, sys, time
start = time.process_time()
import isochrone
seconds = time.process_time() - start
print(json.dumps([seconds, [name for name in {SLOW!r} if name in sys.modules]]))
"""


def measure() -> tuple[float, list[str]]:
    """Processor seconds of the import, which other work on the machine does not change much, and what it loads."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded


def test_import_is_quick() -> None:
    seconds: list[float] = []
    for _ in range(5):
        cost, loaded = measure()
        assert not loaded, f"import isochrone loads {loaded}"
        seconds.append(cost)
        if cost <= LIMIT:
            return
    pytest.fail(f"import isochrone takes {min(seconds):.3f} s; the limit is {LIMIT} s")
