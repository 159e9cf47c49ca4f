"""A run is a folder: config, versions, metrics, checkpoints, figures, results. One process at a time may write it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
from filelock import FileLock, Timeout

from isochrone.core import files, gate
from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.training import checkpoint
from isochrone.training.versions import versions

log = logging.getLogger(__name__)
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""What drives without locks answer (some network and FUSE drives)."""
Step = Annotated[int, msgspec.Meta(ge=0)]


class Entry(gate.Strict, omit_defaults=True):
    """One number of results.json; see evals/suite.py."""

    value: float | None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    target: str | None = None
    met: bool | None = None
    refused: str | None = None


class About(gate.Strict, omit_defaults=True):
    """What the numbers of results.json belong to."""

    step: Step | None = None
    train_seed: int | None = None
    eval_seed: int | None = None
    env: dict[str, Any] | None = None
    damaged: list[str] | None = None  # newer checkpoints that could not be used


class Results(gate.Strict):
    """results.json."""

    about: About
    results: dict[str, Entry]


class Session(gate.Strict):
    """Code, packages and machine of one process, in versions.json."""

    code: str | None
    commit: str | None
    python: str
    packages: dict[str, str | None]
    machine: dict[str, str | int | None]
    threads: int


class Resumed(Session):
    """Those of a process that resumed the run at a step."""

    step: Step


class Versions(Session):
    """versions.json: of the process that created the run, and of those that resumed it."""

    resumed: list[Resumed] = []


class Run:
    """An open run folder. Use as a context manager, or call `close`; the lock also ends with the process.

    Attributes: `path`, `config` (the JSON-ready dict of config.json), `config_hash`.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], lock: FileLock | None) -> None:
        self.path, self.config, self._lock = path, dict(config), lock
        self.config_hash = checkpoint.config_hash(self.config)

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> Self:
        """Make the folder, lock it, write versions.json and then config.json, with which the run exists.

        UserError when the folder contains a run, is in use, or is not a folder that can be written.
        """
        path = Path(path)
        if gate.exists(path / "config.json"):
            raise UserError(
                f"{path} already contains a run: continue it with --resume {path}, or choose another folder"
            )
        _make_folder(path)
        run = cls(path, config, _acquire(path))
        try:
            atomic_write(path / "versions.json", json.dumps(versions(), indent=1) + "\n")
            atomic_write(path / "config.json", json.dumps(run.config, indent=1) + "\n")
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path, write: bool = True) -> Self:
        """Open an existing run; `write=False` takes no lock and suits evaluation beside a training process.

        UserError when the folder contains no run, its config is not readable, or another process uses it.
        """
        path = Path(path)
        if not gate.exists(path / "config.json"):
            raise UserError(f"{path} contains no run (no config.json in it): check the name, or start one with --run")
        config = gate.read_json(path / "config.json", dict[str, Any])
        return cls(path, config, _acquire(path) if write else None)

    def close(self) -> None:
        """Release the lock. May be called twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_present(self) -> None:
        """UserError where the folder is not there any more, or cannot be entered."""
        try:
            os.stat(self.path / "config.json")
        except OSError as error:
            gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
            what = "was moved or deleted" if gone else f"became inaccessible ({error.strerror})"
            raise UserError(
                f"the run folder {self.path} {what} during training, which therefore stopped: "
                "put it back, or continue where it is now with --resume FOLDER"
            ) from None

    @contextmanager
    def report_loss(self) -> Iterator[None]:
        """Turn an OSError that comes of the folder being moved, deleted or closed to us into a UserError."""
        try:
            yield
        except OSError as error:
            self.check_present()
            file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
            if file is None or not file.is_relative_to(self.path):
                raise  # of something else: an environment, a recording
            raise UserError(
                f"{file} cannot be written ({error.strerror}), so training stopped: give the folder its permissions "
                f"back, then continue with --resume {self.path}"
            ) from error

    # --- what is in the folder --------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def newest(self) -> checkpoint.Newest:
        """The newest complete checkpoint, and what is wrong with newer ones."""
        return checkpoint.newest(self.checkpoints)

    def trained(self, newest: checkpoint.Newest | None = None) -> Path:
        """The newest complete checkpoint (out of `newest`, if given); one that is passed over is named in a warning.

        UserError when there is none, with what is wrong with each.
        """
        newest = newest or self.newest()
        if newest.folder is None and newest.damaged:
            raise UserError(
                f"no checkpoint of {self.path} can be read: {'; '.join(newest.damaged)}: restore them from a copy"
            )
        if newest.folder is None:
            raise UserError(f"{self.path} has no complete checkpoint yet: train it first with --resume {self.path}")
        newest.warn()
        return newest.folder

    def figures(self, step: int) -> Path:
        """The folder for the figures of one step, created if missing."""
        folder = gate.check_folder(gate.check_folder(self.path / "figures") / f"{step:08d}")
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def results(self) -> dict[str, Any]:
        """The contents of results.json; empty when there is none. UserError when it is damaged."""
        path = self.path / "results.json"
        return msgspec.to_builtins(gate.read_json(path, Results)) if gate.exists(path) else {}

    def rows(self) -> list[dict[str, Any]]:
        """Every row of metrics.jsonl; a half-written last line is left out. UserError for any other bad line."""
        return gate.read_lines(self.metrics) if gate.exists(self.metrics) else []

    def forget_after(self, step: int) -> None:
        """Drop the rows of metrics.jsonl after `step`, which will be computed again, and a half-written last line."""
        if gate.exists(self.metrics):
            rows = [row for row in self.rows() if row["step"] <= step]
            atomic_write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def versions(self) -> dict[str, Any]:
        """The contents of versions.json; empty when there is none. UserError when it is damaged."""
        path = self.path / "versions.json"
        return msgspec.to_builtins(gate.read_json(path, Versions)) if gate.exists(path) else {}

    def note_resumed(self, step: int) -> None:
        """Add this process' versions to versions.json, under 'resumed'."""
        now = versions()
        stored = self.versions() or now
        stored["resumed"] = [*stored.get("resumed", []), {**now, "step": step}]
        atomic_write(self.path / "versions.json", json.dumps(stored, indent=1) + "\n")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the run folder {path} cannot be created: {error.strerror}") from None


def _acquire(path: Path) -> FileLock | None:
    """Lock the folder for this process; None, and a warning, where the drive has no locks.

    UserError with the name of the process that has locked it.
    """
    lock = FileLock(path / "lock", timeout=0, thread_local=False, fallback_to_soft=False)
    holder = path / "lock.holder"
    gate.check_file(path / "lock")
    gate.check_file(holder)
    try:
        lock.acquire()
    except Timeout:
        name = gate.read_bytes(holder, 1000).decode(errors="replace").strip() if gate.exists(holder) else ""
        raise UserError(
            f"the run folder {path} is in use by {name or 'another process'}: wait for it to end, "
            "or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"the run folder {path} cannot be written: {error.strerror}") from None
        log.warning(
            "the drive of %s has no locks (%s): two processes that write the same run would not notice each other",
            path,
            error.strerror,
        )
        return None
    try:
        atomic_write(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
    except BaseException:
        lock.release()
        raise
    return lock
