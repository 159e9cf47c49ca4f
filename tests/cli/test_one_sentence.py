"""Whatever happens, a user sees one sentence and a code; the traceback is in a file that the sentence names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from isochrone import cli
from isochrone.cli import args as arguments
from isochrone.cli import crash, output
from isochrone.core.errors import UserError

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 4000000000000 bytes"


def raising(error: BaseException) -> SimpleNamespace:
    """A command that fails."""

    def run(args: object, changes: object) -> int:
        raise error

    def parser() -> arguments.Parser:
        out = arguments.Parser("eval", ["RUN"], "fails")
        out.add_argument("run", nargs="*")
        return out

    return SimpleNamespace(parser=parser, run=run)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[BaseException], None]:
    """failing(error): every command raises it; temporary files go to tmp_path."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def use(error: BaseException) -> None:
        monkeypatch.setattr(cli, "module_of", lambda name: raising(error))

    return use


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "runs/a/x"), ["runs/a/x: No space left on device: free some space"]),
        (PermissionError(13, "Permission denied", "runs/a"), ["runs/a: Permission denied"]),
        (FileNotFoundError(2, "No such file or directory", "x", None, "y"), ["x and y: No such file"]),
        (OSError("no number"), ["no number"]),
        (MemoryError(), ["out of memory", "lower train.batch"]),
        (RuntimeError(NO_MEMORY), ["out of memory", "4000000000000", "lower train.batch"]),
        (KeyError("step"), ["unexpected KeyError: 'step'"]),
        (RecursionError("maximum recursion depth exceeded"), ["unexpected RecursionError"]),
        (ValueError("one\ntwo \x1b[31m" + "x" * 5000), ["unexpected ValueError: one two \\x1b[31m"]),
        (BrokenPipeError(32, "Broken pipe"), ["Broken pipe"]),  # of a worker, not of standard output
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
def test_every_error_is_one_sentence_and_a_file(isochrone, failing, tmp_path: Path, error, words: list[str]) -> None:
    failing(error)
    done = isochrone("eval", "runs/none")
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("isochrone: ")
    assert len(line) < 1200
    for word in words:
        assert word in line
    path = Path(line.rpartition("the traceback is in ")[2])
    assert path.parent == tmp_path
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "isochrone eval runs/none" in text


def test_the_traceback_is_kept_in_the_run_if_there_is_one(isochrone, failing, tmp_path: Path) -> None:
    failing(ValueError("odd"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert f"the traceback is in {tmp_path}/run/crash/traceback-" in isochrone("eval", tmp_path / "run").err
    (tmp_path / "other").mkdir()
    assert f"the traceback is in {tmp_path}/isochrone-traceback-" in isochrone("eval", tmp_path / "other").err
    assert not list((tmp_path / "other").iterdir())


def test_notes_of_a_user_error_go_to_the_file(isochrone, failing) -> None:
    error = UserError("environment 3 failed: ValueError: boom")
    error.add_note("Traceback of the simulator")
    failing(error)
    done = isochrone("eval", "runs/none")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("isochrone: environment 3 failed: ValueError: boom; the traceback is in ")
    assert "Traceback of the simulator" in Path(line.rpartition(" is in ")[2]).read_text()


def test_what_libraries_print_stays_out_of_the_results(isochrone, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object, changes: object) -> int:
        print("pygame says hello")
        output.show("a result")
        return 0

    command = raising(ValueError())
    command.run = run
    monkeypatch.setattr(cli, "module_of", lambda name: command)
    done = isochrone("eval", "runs/none")
    assert done.out == "a result\n"
    assert "pygame says hello" in done.err


def test_an_error_in_a_thread_is_one_sentence(failing, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    crash.watch_threads(["train", "tiny"])
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("isochrone: an error in the background: unexpected ZeroDivisionError")


# --- whole processes


def start(*words: object, **options) -> subprocess.Popen:
    """`python -m isochrone words`, without torch where the command needs none."""
    names = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "isochrone", *map(str, words)], preexec_fn=heed_signals, **names)


def heed_signals() -> None:
    """In the child: signals end it, also where the tests run under nohup."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_DFL)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


SHELL = {
    "closed stdout": ("completion bash >&-", 0),
    "closed stderr": ("nothing 2>&-", 2),
    "everything closed": ("completion bash <&- >&- 2>&-", 0),
    "full disk": ("completion bash > /dev/full", 1),
    "full disk for errors": ("nothing 2> /dev/full", 2),
    "a reader that is gone": ("completion bash | true; exit ${PIPESTATUS[0]}", 0),
}


@pytest.mark.parametrize("case", SHELL)
def test_streams_that_cannot_be_written(case: str) -> None:
    words, code = SHELL[case]
    command = f"{sys.executable} -m isochrone {words}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if case == "full disk":
        assert "No space left on device" in done.stderr


def test_a_terminal_that_cannot_write_a_character() -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code, out, err = finish(start("list", "map\u2026", env=environ))
    assert (code, out) == (2, "")
    assert "no kind called 'map\\u2026'" in err


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_ctrl_c_while_it_starts(delay: float) -> None:
    """At any time from our first line on; before that Python itself is starting."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a background job
        "from isochrone import cli; cli.catch_signals(); print(flush=True); cli.main(['routes', 'zhp'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    returned, _, err = finish(process)
    assert (returned, err) == (130, "isochrone: interrupted\n") or (delay == 0 and "KeyboardInterrupt" in err)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signals")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGTERM"])
def test_signals_end_a_training_with_a_checkpoint(small: list[str], tmp_path: Path, name: str) -> None:
    run = tmp_path / "r"
    process = start("train", "tiny", *small, "--run", run, "--train.steps", 10**6, "--train.save-every", 10**6)
    while not (run / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    code, _, err = finish(process)
    assert code == 128 + signal.Signals[name]
    (step,) = map(int, re.findall(rf"stopped by {name} after step (\d+)", err))
    assert (run / "checkpoints" / f"{step:08d}" / "manifest.json").exists()
