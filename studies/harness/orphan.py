"""A process that ends when whoever started it is gone, so that a killed runner leaves nothing running."""

from __future__ import annotations

import os
import signal
import threading
import time


def end_with_parent(every: float = 1.0) -> None:
    """From now on: SIGTERM to this process once its parent is gone (looked at every so many seconds)."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
