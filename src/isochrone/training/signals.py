"""Ctrl-C and SIGTERM as a wish to stop at the next step, so that a run ends with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Wish:
    """`told` is the name of the signal that asked the run to stop, or empty."""

    def __init__(self) -> None:
        self.told = ""

    def __bool__(self) -> bool:
        return bool(self.told)


@contextmanager
def stop_on_signal() -> Iterator[Wish]:
    """While inside, the first SIGINT or SIGTERM only sets the wish; a second SIGINT interrupts as usual.

    Handlers belong to the main thread: elsewhere the wish is never set.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def hear(kind: int, frame: FrameType | None) -> None:
        wish.told = signal.Signals(kind).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for kind in before:
        signal.signal(kind, hear)
    try:
        yield wish
    finally:
        for kind, old in before.items():
            signal.signal(kind, old if old is not None else signal.SIG_DFL)
