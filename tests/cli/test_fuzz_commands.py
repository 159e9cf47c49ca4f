"""Command lines at random: a small part of bench/fuzz_commands.py, with a seed of its own."""

from __future__ import annotations

import sys

import pytest

if not sys.platform.startswith("linux"):  # alarms, pipes and /dev/zero
    pytest.skip("needs Linux", allow_module_level=True)

from bench import fuzz_commands


@pytest.mark.slow
def test_random_command_lines_end_with_a_sentence() -> None:
    done = fuzz_commands.campaign(cases=30, seed=2026)
    assert done["findings"] == []
    assert done["crash_sentences"] == []
    assert sum(done["codes"].values()) == 30
    assert {"0", "2"} <= set(done["codes"])
