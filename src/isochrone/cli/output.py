"""Where the commands write: results on standard output, everything else on standard error.

What a simulator or another library prints would mix with the results, so while a command runs `sys.stdout` is standard
error, and `show` writes to the real standard output.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

_results: ContextVar[TextIO | None] = ContextVar("results", default=None)


def results() -> TextIO:
    """The stream for results."""
    return _results.get() or sys.stdout


def show(*texts: object, end: str = "\n") -> None:
    """Print a result."""
    print(*texts, end=end, file=results())


@contextmanager
def only_results() -> Iterator[None]:
    """Within this context `show` alone reaches standard output; what is printed otherwise goes to standard error."""
    if _results.get() is not None:  # one command runs another
        yield
        return
    token = _results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


class PatientFile(io.FileIO):
    """A file whose writes never fail: progress that nobody can read any more must not end a training."""

    def write(self, data: Any, /) -> int:
        """Bytes written, or dropped."""
        try:
            return super().write(data) or len(data)
        except OSError:  # the terminal or the reader of the pipe is gone, or the disk of the log file is full
            return len(data)


def open_streams() -> None:
    """Replace the standard streams of this process by ones that any text can be written to.

    A closed stream becomes /dev/null, so that no file of ours takes its place; characters that the encoding lacks are
    written as escapes; errors on standard error are ignored; file descriptor 1 becomes standard error, so that what
    compiled libraries print does not mix with the results.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if os.name != "posix":
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    out = io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(out), encoding, errors="backslashreplace", line_buffering=out.isatty()
    )
    err = io.BufferedWriter(PatientFile(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(err, encoding, errors="backslashreplace", line_buffering=True)


def reader_is_gone(stream: TextIO) -> bool:
    """Whether `stream` is a pipe that nobody reads any more (head, less)."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll on Windows; not a file
        return False


def drop_results() -> None:
    """Send what is still buffered for standard output nowhere: it cannot be written, and the exit would try again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), results().fileno())
    except (OSError, ValueError):  # not a file
        return
