"""No code in the package is unused, as far as vulture can tell."""

from __future__ import annotations

import subprocess
import sys

from tree import ROOT

ALLOWED = {"_FabricOptimizer": "a type in the text of a cast: importing it at run time would load lightning"}
"""{what vulture reports: why it stays}."""


def test_no_dead_code() -> None:
    words = [sys.executable, "-m", "vulture", "src/isochrone", "--min-confidence", "80"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    unused = [line for line in done.stdout.splitlines() if not any(name in line for name in ALLOWED)]
    assert unused == []
