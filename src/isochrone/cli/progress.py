"""A line on standard error that shows how far a long computation is: every second on a terminal, else rarely."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from isochrone.training.console import clock as as_clock
from isochrone.training.console import short

log = logging.getLogger(__name__)
EVERY, RARELY = 1.0, 30.0
"""Seconds between lines on a terminal, and elsewhere."""


class ProgressLine:
    """Called with (what is done, steps done, steps at most), as `evals.progress` says; `close` ends the line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.screen = clock, sys.stderr.isatty()
        self.what, self.began, self.shown, self.width = "", 0.0, 0.0, 0

    def __call__(self, what: str, done: int, most: int) -> None:
        now = self.clock()
        if what != self.what:
            self.what, self.began, self.shown = what, now, now  # the first step shows the speed of no step
        elif now - self.shown >= (EVERY if self.screen else RARELY):
            self.shown = now
            self._show(self.text(done, most, now - self.began))

    def text(self, done: int, most: int, seconds: float) -> str:
        """'planning with cem: step 12 of at most 40, 1.5 steps/s, at most 0:19 left'."""
        rate = (done - 1) / max(seconds, 1e-9)  # the time of the first step was not taken
        if not most:
            return f"{self.what}: step {done}, {short(rate)} steps/s"
        left = as_clock((most - done) / max(rate, 1e-9))
        return f"{self.what}: step {done} of at most {most}, {short(rate)} steps/s, at most {left} left"

    def _show(self, text: str) -> None:
        if not self.screen:
            log.info(text)
            return
        sys.stderr.write(f"\r{text:<{self.width}}")
        sys.stderr.flush()
        self.width = len(text)

    def close(self) -> None:
        """Wipe the line."""
        if self.width:
            sys.stderr.write(f"\r{'':<{self.width}}\r")
            sys.stderr.flush()
            self.width = 0
