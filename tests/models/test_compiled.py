"""loop = compiled step = compiled loop, values and gradients, at fixed noise; and no graph break anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def test_the_compiled_recurrence_equals_the_loop() -> None:
    paths = os.pathsep.join(str(ROOT / p) for p in ("src", "tests/support"))
    done = subprocess.run(
        [sys.executable, str(HERE / "compiled.py")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("worst difference")
