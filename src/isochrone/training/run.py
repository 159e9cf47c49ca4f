"""A run is a folder: config, versions, metrics, checkpoints, figures, results. One process at a time may write it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.training import checkpoint
from isochrone.training.versions import versions


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
        if (path / "config.json").exists():
            raise UserError(
                f"{path} already contains a run: continue it with --resume {path}, or choose another folder"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be created: {error.strerror}") from None
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
        try:
            config = json.loads((path / "config.json").read_text())
        except OSError:
            raise UserError(
                f"{path} contains no run (no config.json in it): check the name, or start one with --run"
            ) from None
        except ValueError as error:
            raise UserError(f"{path / 'config.json'} is not JSON: {error}") from None
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

    # --- what is in the folder --------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return checkpoint.latest(self.checkpoints)

    def trained(self) -> Path:
        """The newest complete checkpoint. UserError when there is none."""
        folder = self.latest()
        if folder is None:
            raise UserError(f"{self.path} has no complete checkpoint yet: train it first with --resume {self.path}")
        return folder

    def figures(self, step: int) -> Path:
        """The folder for the figures of one step, created if missing."""
        folder = self.path / "figures" / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def results(self) -> dict[str, Any]:
        """The contents of results.json; empty when there is none."""
        try:
            return json.loads((self.path / "results.json").read_text())
        except FileNotFoundError:
            return {}

    def rows(self) -> list[dict[str, Any]]:
        """Every row of metrics.jsonl; a half-written last line is left out. UserError for any other bad line."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_bytes().split(b"\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                if line:
                    rows.append(json.loads(line))
            except ValueError:
                if number < len(lines):  # a whole line ends in a newline, so only the last piece may be cut
                    raise UserError(
                        f"{self.metrics}, line {number}, is not JSON: correct or delete that line"
                    ) from None
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the rows of metrics.jsonl after `step`, which will be computed again, and a half-written last line."""
        if self.metrics.exists():
            rows = [row for row in self.rows() if row.get("step", 0) <= step]
            atomic_write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def note_resumed(self, step: int) -> None:
        """Add this process' versions to versions.json, under 'resumed'."""
        path = self.path / "versions.json"
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):
            stored = {}
        stored["resumed"] = [*stored.get("resumed", []), {"step": step, **versions()}]
        atomic_write(path, json.dumps(stored, indent=1) + "\n")


def _acquire(path: Path) -> FileLock:
    """Lock the folder for this process. UserError with the name of the process that has locked it."""
    lock, holder = FileLock(path / "lock", timeout=0, thread_local=False), path / "lock.holder"
    try:
        lock.acquire()
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    except Timeout:
        name = (holder.read_text(errors="replace").strip() if holder.exists() else "") or "another process"
        raise UserError(
            f"the run folder {path} is in use by {name}: wait for it to end, or choose another folder"
        ) from None
    except OSError as error:
        lock.release()
        raise UserError(f"the run folder {path} cannot be written: {error.strerror}") from None
    return lock
