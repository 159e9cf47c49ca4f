"""The progress line of an evaluation: rate and time left, on a terminal every second, elsewhere rarely."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from isochrone.cli.progress import ProgressLine
from isochrone.evals.progress import watched


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(line: ProgressLine, now: list[float], steps: int, seconds: float) -> None:
    for step in range(1, steps + 1):
        now[0] += seconds
        line("planning with cem", step, 40)


def test_a_terminal_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    now = [0.0]
    line = ProgressLine(lambda: now[0])
    play(line, now, 11, 0.5)
    shown = sys.stderr.getvalue().split("\r")
    assert shown[-1] == "planning with cem: step 11 of at most 40, 2 steps/s, at most 0:14 left"
    assert len(shown) == 6  # one a second
    line.close()
    assert sys.stderr.getvalue().endswith("\r")


def test_a_log_file_gets_few_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    now = [0.0]
    line = ProgressLine(lambda: now[0])
    with caplog.at_level(logging.INFO):
        play(line, now, 40, 2.0)
    line.close()
    assert len(caplog.records) == 2
    assert "\r" not in sys.stderr.getvalue()


def test_a_watched_agent_acts_as_the_agent_does() -> None:
    agent = SimpleNamespace(
        name="cem",
        needs_goal=True,
        return_discount=0.9,
        start=lambda batch, goal=None, rng=None: batch,
        restart=lambda carry, rows, goal=None: carry,
        act=lambda obs, carry, mode="eval": (obs["image"], carry + 1, {"mode": mode}),
    )
    calls: list[tuple[str, int, int]] = []
    same = watched({"cem": agent}, None, "planning", 5)
    assert same["cem"] is agent
    seen = watched({"cem": agent}, lambda *call: calls.append(call), "planning", 5)["cem"]
    assert (seen.name, seen.needs_goal, seen.return_discount) == ("cem", True, 0.9)
    image = torch.zeros(2)
    assert seen.act({"image": image}, 3, "train") == (image, 4, {"mode": "train"})
    assert seen.start(2) == 2
    assert calls == [("planning with cem", 1, 5)]
