"""The replay: a ring of rows per lane, memory-mapped or in RAM, and windows drawn from it.

Row number n of a lane (counted from the lane's first row ever) lies at n % depth. The ring shows the newest `rows` of
them; `reserve` more lie behind, so that a killed run which goes back to an older cursor still finds every row that it
could see then. A stamp per row says which row number it holds: by it, rows that were overwritten since the cursor was
saved are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import Batch, Spec, Step
from isochrone.data.episode import Episode, Field, check, check_action, check_finite, fields_of, spec_from_dict
from isochrone.data.store import Buffers, Store, read_about

LARGE = 2**18  # bytes: results of at least this many go into memory that is used again


class Replay:
    """`lanes` rings of `rows` rows each. One lane is one environment's history, in order; nothing is ever shuffled.

    `folder=None` keeps the rows in RAM; otherwise they are .npy files that another process can open. An existing folder
    is continued from its last `flush`; one of another spec or size is refused (UserError).
    """

    def __init__(self, spec: Spec, lanes: int, rows: int, folder: Path | str | None = None, reserve: int = 0) -> None:
        for name, value, least in (("lanes", lanes, 1), ("rows", rows, 2), ("reserve", reserve, 0)):
            if value < least:
                raise UserError(f"replay: {name} = {value}, must be at least {least}")
        self.spec, self.lanes, self.rows, self.depth = spec, lanes, rows, rows + reserve
        self.fields = fields_of(spec)
        self._store = Store(spec, lanes, self.depth, rows, folder)
        self._flat = {name: a.reshape(lanes * self.depth, -1) for name, a in self._store.arrays.items()}
        self._buffers = Buffers()
        self._total = np.zeros(lanes, np.int64)  # rows ever written
        self._floor = np.zeros(lanes, np.int64)  # oldest row number that is still intact
        self.known: dict[str, Tensor] = {}  # (lanes, depth, ...) handed out with each window, beside its rows
        if self._store.cursor is not None:
            self.load_state_dict(self._store.cursor)

    @classmethod
    def sized(cls, spec: Spec, lanes: int, budget: int, folder: Path | str | None = None, reserve: int = 0) -> Replay:
        """As many rows as `budget` bytes hold."""
        rows = int(budget) // (lanes * row_bytes(spec)) - reserve
        if rows < 2:
            raise UserError(
                f"replay: a budget of {int(budget)} bytes holds {rows} rows in each of {lanes} lanes beyond the reserve"
                f" of {reserve}; one row takes {row_bytes(spec)} bytes: raise the budget"
            )
        return cls(spec, lanes, rows, folder, reserve)

    @classmethod
    def open(cls, folder: Path | str) -> Replay:
        """The replay that lies in `folder`, at its last `flush`."""
        about = read_about(Path(folder))
        rows, depth = about["rows"], about["depth"]
        return cls(spec_from_dict(about["spec"]), about["lanes"], rows, folder, depth - rows)

    @property
    def folder(self) -> Path | None:
        return self._store.folder

    @property
    def bytes(self) -> int:
        """Bytes that the arrays take when full."""
        return self.lanes * self.depth * row_bytes(self.spec)

    @property
    def total(self) -> int:
        """Rows ever written, over all lanes; for a VecEnv that is the count of env steps."""
        return int(self._total.sum())

    def __len__(self) -> int:
        return int(self.stored().sum())

    def stored(self) -> Int64[np.ndarray, "lanes"]:
        """Rows that can be sampled, per lane."""
        return np.minimum(self._total - self._floor, self.rows)

    def announce(self) -> str:
        """One sentence: how large, and where."""
        where = "in RAM" if self.folder is None else f"memory-mapped in {self.folder}"
        size = f"{self.bytes / 1e9:.2f} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:.1f} MB"
        held = f", {len(self)} rows in it" if len(self) else ""
        return f"replay: {self.lanes} lanes x {self.rows} rows = {self.lanes * self.rows} frames, {size} {where}{held}"

    # --- writing ----------------------------------------------------------------------------------------------------

    def add(self, step: Step, action: Float[Tensor, "B A"]) -> None:
        """Append one row to every lane: what the environments showed, and the action taken there. B == lanes."""
        columns = {f"obs/{name}": step.obs[name] for name in self.spec.obs} | {"action": action, "reward": step.reward}
        columns |= {"first": step.first, "last": step.last, "terminal": step.terminal}
        rows = {name: _numpy(value) for name, value in columns.items()}
        for name, array in rows.items():
            self._check_row(name, array)
        check_action(rows["action"], self.spec.action, "replay.add")
        at = np.arange(self.lanes) * self.depth + self._total % self.depth  # (B) flat row
        # The stamp goes first: a kill in the middle of the row leaves a row that is known not to be the old one.
        self._flat["stamp"][at, 0] = self._total + 1
        for name, array in rows.items():
            self._flat[name][at] = array.reshape(self.lanes, -1)
        self._total += 1
        self._floor = np.maximum(self._floor, self._total - self.depth)

    def _check_row(self, name: str, array: np.ndarray) -> None:
        field = self.fields[name]
        if array.dtype != field.dtype or array.shape != (self.lanes, *field.shape):
            raise UserError(
                f"replay.add: {name} is {array.dtype} {array.shape}, must be {field.dtype} {(self.lanes, *field.shape)}"
                f" (one row for each of {self.lanes} lanes)"
            )
        if name != "action":
            check_finite(name, array, "replay.add")

    def extend(self, lane: int, episode: Episode) -> None:
        """Append a whole checked episode to one lane. Of an episode longer than the ring only the end stays."""
        columns = check(episode, self.spec, "replay.extend").columns()
        number = self._total[lane] + np.arange(len(episode))[-self.depth :]  # (T)
        at = lane * self.depth + number % self.depth  # (T) flat row
        self._flat["stamp"][at, 0] = number + 1
        for name, array in columns.items():
            self._flat[name][at] = array[-self.depth :].reshape(len(at), -1)
        self._total[lane] += len(episode)
        self._floor = np.maximum(self._floor, self._total - self.depth)

    # --- reading ----------------------------------------------------------------------------------------------------

    def starts(self, length: int, lanes: Sequence[int] | None = None) -> Int64[np.ndarray, "lanes"]:
        """How many windows of `length` rows can begin in each lane; 0 outside `lanes`."""
        count = np.maximum(self.stored() - length + 1, 0)
        if lanes is not None:
            chosen = np.zeros(self.lanes, bool)
            chosen[np.asarray(lanes, np.int64)] = True
            count = np.where(chosen, count, 0)
        return count

    def sample(self, batch: int, length: int, rng: torch.Generator, lanes: Sequence[int] | None = None) -> Batch:
        """`batch` windows of `length` rows, uniform over every start of every lane (of `lanes`, when given)."""
        if batch < 1 or length < 1:
            raise UserError(f"replay: batch {batch} x length {length}, both must be at least 1")
        ends = np.cumsum(self.starts(length, lanes))  # (lanes)
        if not ends[-1]:
            raise UserError(
                f"replay: no window of {length} rows yet (longest lane holds {int(self.stored().max())}):"
                " collect more, or shorten the window"
            )
        draw = torch.randint(int(ends[-1]), (batch,), generator=rng, device=rng.device).cpu().numpy()  # (B)
        lane = np.searchsorted(ends, draw, side="right")  # (B)
        return self._windows(lane, draw - np.concatenate([[0], ends])[lane], length)

    def take(self, lane: Sequence[int], start: Sequence[int], length: int) -> Batch:
        """The windows that begin `start` rows after the oldest stored row of `lane`; (B) each."""
        lane_, start_ = np.asarray(lane, np.int64), np.asarray(start, np.int64)
        if ((lane_ < 0) | (lane_ >= self.lanes)).any():
            raise UserError(f"replay: lanes {lane_.tolist()} must lie in 0..{self.lanes - 1}")
        if ((start_ < 0) | (start_ + length > self.stored()[lane_])).any():
            raise UserError(
                f"replay: windows of {length} rows at {start_.tolist()} leave the stored rows of their lanes"
            )
        return self._windows(lane_, start_, length)

    def _windows(self, lane: np.ndarray, start: np.ndarray, length: int) -> Batch:
        begin = (self._total - self.stored())[lane] + start  # (B) row number
        index = (begin[:, None] + np.arange(length)) % self.depth + (lane * self.depth)[:, None]  # (B, T) flat row
        found = {name: self._gather(field, index) for name, field in self.fields.items()}
        obs = {name: found[f"obs/{name}"] for name in self.spec.obs}
        row = torch.from_numpy(index)
        known = {name: table.flatten(0, 1)[row] for name, table in self.known.items()}
        return Batch(obs, found["action"], found["reward"], found["first"], found["last"], found["terminal"], known)

    def _gather(self, field: Field, index: np.ndarray) -> Tensor:
        flat, shape = self._flat[field.name], (*index.shape, *field.shape)  # (lanes * depth, row), (B, T, ...)
        if index.size * field.bytes < LARGE:
            return torch.from_numpy(flat.take(index, axis=0).reshape(shape))
        # Large results go into memory that was touched before: above 32 MB the allocator hands out fresh pages, whose
        # faults cost as much as the copy. With mode='clip' (nothing is out of range) numpy writes into `out` directly.
        out = self._buffers.take(shape, field.dtype)
        np.take(flat, index, axis=0, out=out.reshape(*index.shape, -1), mode="clip")
        return torch.from_numpy(out)

    def ring(self, lane: int, name: str) -> np.ndarray:
        """A view of one column of a lane as it lies in memory, rows never written included: (depth, ...)."""
        return self._store.arrays[name][lane].reshape(self.depth, *self.fields[name].shape)

    def column(self, lane: int, name: str) -> np.ndarray:
        """A copy of one column ('reward', 'obs/state', ...) of a lane, oldest stored row first: (stored, ...)."""
        return self._rows(lane, int(self._total[lane] - self.stored()[lane]), int(self._total[lane]), name)

    def _rows(self, lane: int, begin: int, end: int, name: str) -> np.ndarray:
        at = lane * self.depth + np.arange(begin, end) % self.depth
        return self._flat[name][at].reshape(end - begin, *self.fields[name].shape)

    def episodes(self, lanes: Sequence[int] | None = None) -> Iterator[Episode]:
        """Every episode that lies in the ring from its first to its last row, lane by lane, oldest first."""
        for lane in range(self.lanes) if lanes is None else lanes:
            oldest = int(self._total[lane] - self.stored()[lane])
            firsts = np.flatnonzero(self.column(lane, "first"))
            lasts = np.flatnonzero(self.column(lane, "last"))
            for i, first in enumerate(firsts):
                after = lasts[np.searchsorted(lasts, first) :]
                following = firsts[i + 1] if i + 1 < len(firsts) else len(self.column(lane, "first"))
                if len(after) and after[0] < following and after[0] > first:
                    span = oldest + int(first), oldest + int(after[0]) + 1
                    yield Episode.of({name: self._rows(lane, *span, name) for name in self.fields})

    # --- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The cursors; JSON-ready. The rows themselves stay where they are."""
        return {"total": self._total.tolist(), "floor": self._floor.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved cursors. Rows written since are ignored, and what these overwrote is no longer shown."""
        total, floor = (np.array(state[name], np.int64) for name in ("total", "floor"))
        if total.shape != (self.lanes,):
            raise UserError(
                f"replay: the saved cursor has {len(total)} lanes, this replay {self.lanes}: use the same lanes"
            )
        for lane in range(self.lanes):
            number = np.arange(max(floor[lane], total[lane] - self.rows), total[lane])
            stamp = self._store.arrays["stamp"][lane, number % self.depth]
            bad = np.flatnonzero(stamp != number + 1)
            floor[lane] = number[bad[-1]] + 1 if len(bad) else floor[lane]
        if total.sum() and not (total - floor).sum():
            where = (
                "it was kept in RAM: give it a folder to resume"
                if self.folder is None
                else f"{self.folder} was replaced"
            )
            raise UserError(f"replay: none of the {int(total.sum())} recorded rows is there any more; {where}")
        self._total, self._floor = total, floor

    def flush(self) -> None:
        """Force rows and cursors to the disk (fsync). Opening the folder again continues here."""
        self._store.flush(self.state_dict())


def row_bytes(spec: Spec) -> int:
    """Bytes of one row of one lane, its stamp included."""
    return sum(field.bytes for field in fields_of(spec).values()) + 8


def _numpy(value: Tensor | np.ndarray) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.cpu().numpy()
