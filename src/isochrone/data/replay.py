"""The replay: for each environment a ring of rows, memory-mapped or in RAM, and windows sampled from them.

Row number n of an environment (counted from its first row ever) is stored at n % length of the ring. The newest
`capacity` rows can be sampled; `resume_margin` older rows stay on disk, so that a killed run which goes back to an
older cursor still finds every row that it could sample then. A stamp per row holds its row number and so reveals rows
that were overwritten since the cursor was saved.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from isochrone.core.buffers import Buffers
from isochrone.core.errors import UserError
from isochrone.core.types import Batch, Spec, Step
from isochrone.data.episode import Episode, Field, check, check_action, fields_of, restore_spec
from isochrone.data.store import Cursor, Store, read_about

log = logging.getLogger(__name__)
ROW = ("action", "reward", "first", "last", "terminal")  # columns beside the observations
LARGE = 2**18  # bytes: results of at least this many go into memory that is used again
SUMMED = 1024  # rows whose checksums are computed at once


class ReplayBuffer:
    """`num_envs` rings of `capacity` rows each: ring i is the history of environment i, in order, never shuffled.

    `folder=None` keeps the rows in RAM; otherwise they are .npy files that another process can open. An existing folder
    is continued from its last `flush`; one of another spec or size is refused (UserError).
    """

    def __init__(
        self,
        spec: Spec,
        num_envs: int,
        capacity: int,
        folder: Path | str | None = None,
        resume_margin: int = 0,
        write: bool = True,
    ) -> None:
        limits = (("num_envs", num_envs, 1), ("capacity", capacity, 2), ("resume_margin", resume_margin, 0))
        for name, value, least in limits:
            if value < least:
                raise UserError(f"replay: {name} = {value}, must be at least {least}")
        self.spec, self.num_envs, self.capacity = spec, num_envs, capacity
        self._length = capacity + resume_margin  # rows of a ring
        self.fields = fields_of(spec)
        self._store = Store(spec, num_envs, capacity, resume_margin, folder, write)
        self._flat = {name: a.reshape(num_envs * self._length, -1) for name, a in self._store.arrays.items()}
        self._buffers = Buffers()
        self._total = np.zeros(num_envs, np.int64)  # rows ever written
        self._oldest = np.zeros(num_envs, np.int64)  # oldest row number that is still intact
        self._summed = np.zeros(num_envs, np.int64)  # rows before this number have their checksum
        self._intact = np.zeros(num_envs * self._length, bool)  # flat rows whose checksum was found right
        self.cached: dict[str, Tensor] = {}  # (num_envs, ring length, ...): copied into each window, beside its rows
        if (cursor := self._store.cursor) is not None:
            self._go_to(cursor)
            self._summed = self._total.copy()

    @classmethod
    def open(cls, folder: Path | str, write: bool = True) -> ReplayBuffer:
        """The replay in `folder`, at its last `flush`. `write=False`: to read only, also from a drive that allows no
        more."""
        about = read_about(Path(folder))
        spec = restore_spec(about.spec, str(folder))
        return cls(spec, about.num_envs, about.capacity, folder, about.resume_margin, write)

    @property
    def folder(self) -> Path | None:
        return self._store.folder

    @property
    def bytes(self) -> int:
        """Bytes that the arrays take when full."""
        return self.num_envs * self._length * row_bytes(self.spec)

    @property
    def total(self) -> int:
        """Rows ever written, over all environments: the number of environment steps."""
        return int(self._total.sum())

    def __len__(self) -> int:
        return int(self.stored().sum())

    def stored(self) -> Int64[np.ndarray, "num_envs"]:
        """Rows of each environment that can be sampled."""
        return np.minimum(self._total - self._oldest, self.capacity)

    def describe(self) -> str:
        """One sentence: how large, and where."""
        where = "in RAM" if self.folder is None else f"memory-mapped in {self.folder}"
        size = f"{self.bytes / 1e9:.2f} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:.1f} MB"
        stored = f", {len(self)} rows in it" if len(self) else ""
        frames = f"{self.num_envs} environments x {self.capacity} rows = {self.num_envs * self.capacity} frames"
        return f"replay: {frames}, {size} {where}{stored}"

    # --- writing ----------------------------------------------------------------------------------------------------

    def add(self, step: Step, action: Float[Tensor, "B A"], where: str = "replay.add") -> None:
        """Append one row of every environment, with the action taken there. B == num_envs.

        `where` names the source of the rows in error messages.
        """
        columns = {f"obs/{name}": step.obs[name] for name in self.spec.obs} | {"action": action, "reward": step.reward}
        columns |= {"first": step.first, "last": step.last, "terminal": step.terminal}
        rows = {name: _numpy(value) for name, value in columns.items()}
        for name, array in rows.items():
            self._check_row(name, array, where)
        check_action(rows["action"], self.spec.action, where)
        at = np.arange(self.num_envs) * self._length + self._total % self._length  # (B) flat row
        # The stamp goes first: after a kill in the middle of the row, the stamp says that the old row is gone.
        self._flat["stamp"][at, 0] = self._total + 1
        for name, array in rows.items():
            self._flat[name][at] = array.reshape(self.num_envs, -1)
        self._total += 1
        self._oldest = np.maximum(self._oldest, self._total - self._length)

    def _check_row(self, name: str, array: np.ndarray, where: str) -> None:
        field = self.fields[name]
        if array.dtype != field.dtype or array.shape != (self.num_envs, *field.shape):
            raise UserError(
                f"{where}: {name} is {array.dtype} {array.shape}, must be {field.dtype}"
                f" {(self.num_envs, *field.shape)} (one row for each of {self.num_envs} environments)"
            )
        if name != "action" and array.dtype.kind == "f" and not np.isfinite(array).all():
            at = np.argwhere(~np.isfinite(array))[0]
            raise UserError(
                f"{where}: {name} is {array[tuple(at)]} in environment {at[0]} of {self.num_envs}: it must be finite; "
                "correct the environment"
            )

    def extend(self, env: int, episode: Episode, where: str = "replay.extend") -> None:
        """Check an episode and append it to the ring of `env`; of one longer than the ring, only the end.

        `where` names the episode in error messages.
        """
        columns = check(episode, self.spec, where).columns()
        number = self._total[env] + np.arange(len(episode))[-self._length :]  # (T)
        at = env * self._length + number % self._length  # (T) flat row
        self._flat["stamp"][at, 0] = number + 1
        for name, array in columns.items():
            self._flat[name][at] = array[-self._length :].reshape(len(at), -1)
        self._total[env] += len(episode)
        self._oldest = np.maximum(self._oldest, self._total - self._length)

    # --- reading ----------------------------------------------------------------------------------------------------

    def starts(self, length: int, envs: Sequence[int] | None = None) -> Int64[np.ndarray, "num_envs"]:
        """How many windows of `length` rows each environment has; 0 outside `envs`."""
        count = np.maximum(self.stored() - length + 1, 0)
        if envs is not None:
            chosen = np.zeros(self.num_envs, bool)
            chosen[np.asarray(envs, np.int64)] = True
            count = np.where(chosen, count, 0)
        return count

    def sample(self, batch: int, length: int, rng: torch.Generator, envs: Sequence[int] | None = None) -> Batch:
        """`batch` windows of `length` rows, uniform over every start in every environment (of `envs`, if given)."""
        if batch < 1 or length < 1:
            raise UserError(f"replay: batch {batch} x length {length}, both must be at least 1")
        ends = np.cumsum(self.starts(length, envs))  # (num_envs)
        if not ends[-1]:
            longest = int(self.stored()[np.arange(self.num_envs) if envs is None else np.asarray(envs, np.int64)].max())
            raise UserError(
                f"replay: no window of {length} rows yet (the longest history has {longest}):"
                " collect more, or shorten the window"
            )
        draw = torch.randint(int(ends[-1]), (batch,), generator=rng, device=rng.device).cpu().numpy()  # (B)
        env = np.searchsorted(ends, draw, side="right")  # (B)
        return self._windows(env, draw - np.concatenate([[0], ends])[env], length)

    def _windows(self, env: np.ndarray, start: np.ndarray, length: int) -> Batch:
        """The windows that begin `start` rows after the oldest stored row of `env`; (B) each."""
        begin = (self._total - self.stored())[env] + start  # (B) row number
        index = (begin[:, None] + np.arange(length)) % self._length + (env * self._length)[:, None]  # (B, T) flat row
        columns = {name: self._gather(field, index) for name, field in self.fields.items()}
        obs = {name: columns[f"obs/{name}"] for name in self.spec.obs}
        row = torch.from_numpy(index)
        cached = {name: table.flatten(0, 1)[row] for name, table in self.cached.items()}
        action, reward, first, last, terminal = (columns[name] for name in ROW)
        return Batch(obs, action, reward, first, last, terminal, cached)

    def _gather(self, field: Field, index: np.ndarray) -> Tensor:
        flat, shape = self._flat[field.name], (*index.shape, *field.shape)  # (num_envs * length, row), (B, T, ...)
        if index.size * field.bytes < LARGE:
            return torch.from_numpy(flat.take(index, axis=0).reshape(shape))
        # With mode='clip' (nothing is out of range) numpy writes into `out` directly.
        out = self._buffers.take(shape, field.dtype)
        np.take(flat, index, axis=0, out=out.reshape(*index.shape, -1), mode="clip")
        return torch.from_numpy(out)

    def ring(self, env: int, name: str) -> np.ndarray:
        """A view of one column of an environment as stored, unwritten rows included: (ring length, ...)."""
        return self._store.arrays[name][env].reshape(self._length, *self.fields[name].shape)

    def column(self, env: int, name: str) -> np.ndarray:
        """A copy of one column ('reward', 'obs/state', ...) of `env`, oldest stored row first: (stored, ...)."""
        return self._rows(env, int(self._total[env] - self.stored()[env]), int(self._total[env]), name)

    def _rows(self, env: int, begin: int, end: int, name: str) -> np.ndarray:
        at = env * self._length + np.arange(begin, end) % self._length
        return self._flat[name][at].reshape(end - begin, *self.fields[name].shape)

    def episodes(self, envs: Sequence[int] | None = None) -> Iterator[Episode]:
        """Every complete episode, environment by environment, oldest first."""
        for env in range(self.num_envs) if envs is None else envs:
            oldest = int(self._total[env] - self.stored()[env])
            firsts = np.flatnonzero(self.column(env, "first"))
            lasts = np.flatnonzero(self.column(env, "last"))
            for i, first in enumerate(firsts):
                after = lasts[np.searchsorted(lasts, first) :]
                following = firsts[i + 1] if i + 1 < len(firsts) else len(self.column(env, "first"))
                if len(after) and after[0] < following and after[0] > first:
                    span = oldest + int(first), oldest + int(after[0]) + 1
                    yield Episode.of({name: self._rows(env, *span, name) for name in self.fields})

    # --- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The cursors, as JSON values, and a digest of the rows. The rows themselves are not in it."""
        return msgspec.to_builtins(self._cursor())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved cursors. Rows written since are ignored; the rows that they overwrote are lost.

        UserError where rows are gone for another reason, or are not as they were written.
        """
        try:
            cursor = msgspec.convert(dict(state), Cursor)
        except msgspec.ValidationError as error:
            raise UserError(f"replay: the saved cursor is damaged: {error}") from None
        self._go_to(cursor)
        self.verify()
        if cursor.digest is not None and cursor.digest != self._digest() and self._oldest.tolist() == cursor.oldest:
            raise UserError(
                f"replay: {self.folder} holds other rows than at the time of the checkpoint: restore it from a copy"
            )

    def verify(self, envs: Sequence[int] | None = None) -> None:
        """UserError where a row that can be sampled (of `envs`, if given) is not as it was when it was flushed."""
        if self.folder is None:
            return
        for env in range(self.num_envs) if envs is None else envs:
            number = np.arange(self._total[env] - self.stored()[env], min(self._total[env], self._summed[env]))
            at = env * self._length + number % self._length
            new = ~self._intact[at]
            wrong = np.flatnonzero(self._row_sums(at[new]) != self._flat["crc"][at[new], 0])
            if len(wrong):
                raise UserError(
                    f"replay: row {number[new][wrong[0]]} of environment {env} in {self.folder} is damaged (its "
                    f"checksum differs, as of {len(wrong)} rows there): restore the folder from a copy"
                )
            self._intact[at] = True

    def _go_to(self, cursor: Cursor) -> None:
        total, oldest = np.array(cursor.total, np.int64), np.array(cursor.oldest, np.int64)
        if total.shape != (self.num_envs,):
            raise UserError(
                f"replay: the saved cursor has {len(total)} environments, this replay {self.num_envs}:"
                " use the same num_envs"
            )
        if oldest.shape != total.shape or (oldest > total).any() or (total - oldest > self._length).any():
            raise UserError(f"replay: the cursor of {self.folder} is damaged: restore it from a copy")
        known, gone = oldest.copy(), False
        for env in range(self.num_envs):
            number = np.arange(max(oldest[env], total[env] - self.capacity), total[env])
            stamp = self._store.arrays["stamp"][env, number % self._length]
            later = stamp - (number + 1)  # 0: the row itself; a multiple of the ring's length: one that overwrote it
            bad = np.flatnonzero(later)
            oldest[env] = number[bad[-1]] + 1 if len(bad) else oldest[env]
            # Later rows overwrite the oldest first; anything else is damage.
            gone |= bool(((later < 0) | (later % self._length != 0)).any()) or bool((bad != np.arange(len(bad))).any())
        if total.sum() and not (total - oldest).sum():
            where = (
                "it was in RAM: give it a folder to resume" if self.folder is None else f"{self.folder} was replaced"
            )
            raise UserError(f"replay: none of the {int(total.sum())} recorded rows exists any more; {where}")
        if gone:
            raise UserError(f"replay: {self.folder} is damaged: rows that were recorded are missing; restore it")
        if lost := int((oldest - known).sum()):
            log.warning("replay: %d rows of %s were overwritten since and are left out", lost, self.folder)
        self._total, self._oldest, self._summed = total, oldest, np.minimum(self._summed, total)

    def _cursor(self) -> Cursor:
        return Cursor(self._total.tolist(), self._oldest.tolist(), self._digest())

    def _digest(self) -> int | None:
        """A checksum of the checksums of all rows that can be sampled; None in RAM, and before they are flushed."""
        if self.folder is None or (self._summed < self._total).any():
            return None
        crc, digest = self._store.arrays["crc"], 0
        for env in range(self.num_envs):
            number = np.arange(self._total[env] - self.stored()[env], self._total[env])
            digest = zlib.crc32(crc[env, number % self._length].tobytes(), digest)
        return digest

    def _row_sums(self, at: np.ndarray) -> np.ndarray:
        """The checksum (R) uint32 of flat rows (R): of everything that is stored of them."""
        sums = np.zeros(len(at), np.uint32)
        for begin in range(0, len(at), SUMMED):
            some = at[begin : begin + SUMMED]
            columns = [self._flat[name][some].reshape(len(some), -1).view(np.uint8) for name in (*self.fields, "stamp")]
            for i, row in enumerate(np.concatenate(columns, axis=1), begin):
                sums[i] = zlib.crc32(row.data)
        return sums

    def flush(self) -> None:
        """Force rows and cursors to the disk (fsync). Opening the folder again continues here."""
        if self.folder is not None:
            for env in range(self.num_envs):
                begin = max(self._summed[env], self._total[env] - self._length)
                at = env * self._length + np.arange(begin, self._total[env]) % self._length
                self._flat["crc"][at, 0] = self._row_sums(at)
                self._intact[at] = True
            self._summed = self._total.copy()
        self._store.flush(self._cursor())


def row_bytes(spec: Spec) -> int:
    """Bytes of one row, its stamp and its checksum included."""
    return sum(field.bytes for field in fields_of(spec).values()) + 12


def _numpy(value: Tensor | np.ndarray) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.cpu().numpy()


def split_envs(
    num_envs: int, holdout_fraction: float = 0.1, salt: int = 0, windows: Int64[np.ndarray, "num_envs"] | None = None
) -> tuple[list[int], list[int]]:
    """(training environments, holdout environments), disjoint; at least one on each side.

    The side of an environment depends only on its number and `salt`, by hash order. Environments share no rows, so no
    holdout window can appear in training. `windows` says how many windows each environment has: where the hash order
    leaves a side without any, or far too many for the holdout, environments with few windows are held out instead.

    Raises:
        UserError: the fraction is not in (0, 1), or there are fewer than two environments (with a window).
    """
    if not 0 < holdout_fraction < 1:
        raise UserError(f"holdout_fraction = {holdout_fraction}, must lie between 0 and 1")
    if num_envs < 2:
        raise UserError(
            f"a holdout needs at least 2 environments, this replay has {num_envs}: record with more environments"
        )
    order = sorted(range(num_envs), key=lambda env: hashlib.blake2b(f"{salt}:{env}".encode(), digest_size=8).digest())
    count = min(max(round(holdout_fraction * num_envs), 1), num_envs - 1)
    if windows is not None and not _is_fair(windows, order[:count], holdout_fraction):
        usable = sorted((env for env in order if windows[env]), key=lambda env: int(windows[env]))  # stable
        if len(usable) < 2:
            raise UserError(
                f"{len(usable)} of {num_envs} histories in the replay holds a window, and a holdout needs one too: "
                "shorten train.length, or record longer episodes"
            )
        shares = np.cumsum(windows[usable]) / windows.sum()
        count = min(int(np.searchsorted(shares, holdout_fraction)) + 1, len(usable) - 1)
        order = [*usable[:count], *(env for env in order if env not in usable[:count])]
    return sorted(order[count:]), sorted(order[:count])


def _is_fair(windows: np.ndarray, holdout: list[int], fraction: float) -> bool:
    """Has each side windows, and the holdout at most about twice its share?"""
    held, total = int(windows[holdout].sum()), int(windows.sum())
    return 0 < held < total and held / total <= max(2 * fraction, len(holdout) / len(windows) + 0.05)
