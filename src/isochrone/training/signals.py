"""Turn signals into a stop request honoured after the current step; the run ends with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Ctrl-C; the system shutting down; a lost connection; what batch systems send before the time limit."""


class StopRequest:
    """True once requested; `signal_name` is the signal that requested it, or empty."""

    def __init__(self) -> None:
        self.signal_name = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)


def stop_signals() -> list[signal.Signals]:
    """The signals that end a training, as far as the system has them. One that is ignored, as by nohup, stays so."""
    known = [signal.Signals[name] for name in NAMES if hasattr(signal, name)]
    always = (signal.SIGINT, signal.SIGTERM)
    return [kind for kind in known if kind in always or signal.getsignal(kind) is not signal.SIG_IGN]


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """While inside, the first of these signals only sets the request; a second SIGINT interrupts as usual.

    Only the main thread can have handlers: in another thread the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {kind: signal.getsignal(kind) for kind in stop_signals()}

    def handler(kind: int, frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(kind).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for kind in before:
        signal.signal(kind, handler)
    try:
        yield request
    finally:
        for kind, old in before.items():
            signal.signal(kind, old if old is not None else signal.SIG_DFL)
