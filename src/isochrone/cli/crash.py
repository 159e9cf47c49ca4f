"""An error that is not the user's input, as one sentence; its traceback goes to a file that the sentence names."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from isochrone.core.errors import printable

REASON = 300
"""Characters of an error's own text at most."""
MEMORY = "lower train.batch, train.length, data.num_envs or the sizes of the model"
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no file handles left",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or take fewer workers and threads",
}
_NO_MEMORY = ("allocate memory", "out of memory", "not enough memory", "storage size calculation overflowed")


def sentence(error: BaseException) -> str:
    """What happened, and what to do about it where that is known; without a full stop."""
    reason = _line(error)
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY):
        return f"out of memory ({reason or type(error).__name__}): {MEMORY}"
    if isinstance(error, OSError):
        names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        what = _line(error.strerror or reason or type(error).__name__)
        remedy = REMEDIES.get(error.errno or 0)
        where = f"{_line(names)}: " if names else ""
        return f"{where}{what}{f': {remedy}' if remedy else ''}"
    return f"unexpected {type(error).__name__}{f': {reason}' if reason else ''}"


def _line(text: object) -> str:
    return printable(" ".join(str(text).split()), REASON)


def run_folder(args: argparse.Namespace) -> Path | None:
    """The run folder that the arguments of a command name."""
    name = getattr(args, "resume", None) or getattr(args, "run", None)
    if isinstance(name, list):
        name = name[0] if name else None
    return Path(name) if name else None


def store(text: str, run: Path | None, words: Sequence[str]) -> str:
    """Keep a traceback in the run folder, or else in the folder for temporary files; where it is, as words."""
    now = datetime.now().astimezone()
    page = f"{now.isoformat(timespec='seconds')}\nisochrone {' '.join(words)}\nPython {sys.version}\n\n{text}"
    name = f"traceback-{now:%Y%m%d-%H%M%S}-{os.getpid()}-"
    is_run = run is not None and os.path.isfile(run / "config.json") and not os.path.islink(run / "crash")
    folders = [run / "crash"] if run is not None and is_run else []
    for folder in (*folders, None):
        try:
            if folder is not None:
                folder.mkdir(exist_ok=True)
            handle, path = tempfile.mkstemp(".txt", name if folder else f"isochrone-{name}", folder)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(page)
            return f"the traceback is in {printable(path, 5000)}"
        except OSError:
            continue
    return "the traceback could not be stored"


def report(error: BaseException, run: Path | None, words: Sequence[str]) -> str:
    """The sentence about an error whose traceback has been stored."""
    text = "".join(traceback.format_exception(error))
    return f"{sentence(error)}; {store(text, run, words)}"


def watch_threads(words: Sequence[str]) -> None:
    """Give errors in threads, and those in destructors, one sentence too."""

    def say(what: str, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, (SystemExit, KeyboardInterrupt)):
            print(f"isochrone: {what}: {report(error, None, words)}", file=sys.stderr)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":  # of TensorBoard: the next row raises its error
            say("an error in the background", args.exc_value)

    def in_destructor(args: Any) -> None:
        say("an error while cleaning up", args.exc_value)

    threading.excepthook = in_thread
    sys.unraisablehook = in_destructor
