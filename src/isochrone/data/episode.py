"""One recorded episode as numpy arrays, the columns that follow from a Spec, and the checks on every recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float32

from isochrone.core import gate
from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec

LARGEST_ROW = 2**30
"""Bytes of the largest observation."""


class Field(NamedTuple):
    """One column of a recording; `shape` is that of a single row."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def obs_dtype(name: str) -> np.dtype:
    """'image' is uint8, every other observation float32."""
    return np.dtype(np.uint8 if name == "image" else np.float32)


def fields_of(spec: Spec) -> dict[str, Field]:
    """Every column of a recording of `spec`, observations as 'obs/<name>'."""
    fields = [Field(f"obs/{name}", obs_dtype(name), tuple(shape)) for name, shape in spec.obs.items()]
    fields.append(Field("action", np.dtype(np.float32), (spec.action.size,)))
    fields.append(Field("reward", np.dtype(np.float32), ()))
    fields += [Field(name, np.dtype(np.bool_), ()) for name in ("first", "last", "terminal")]
    return {field.name: field for field in fields}


def spec_to_dict(spec: Spec) -> dict[str, Any]:
    """JSON-ready form of a Spec."""
    action = spec.action
    return {
        "obs": {name: list(shape) for name, shape in spec.obs.items()},
        "action": {
            "kind": action.kind,
            "size": action.size,
            "names": list(action.names),
            "noop": action.noop,
            "inverse": None if action.inverse is None else list(action.inverse),
        },
    }


Size = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Shape = Annotated[list[Size], msgspec.Meta(max_length=8)]
ObsName = Annotated[str, msgspec.Meta(pattern="^[^/\\x00-\\x1f]{1,80}$")]


class StoredAction(gate.Strict):
    """An ActionSpec as `spec_to_dict` writes it."""

    kind: Literal["discrete", "continuous"]
    size: Size
    names: list[str]
    noop: int | None
    inverse: list[int] | None


class StoredSpec(gate.Strict):
    """A Spec as `spec_to_dict` writes it."""

    obs: dict[ObsName, Shape]
    action: StoredAction


def restore_spec(stored: StoredSpec, where: str) -> Spec:
    """The Spec that `spec_to_dict` wrote. UserError, beginning with `where`, for one that nothing can have."""
    action = stored.action
    inverse = None if action.inverse is None else tuple(action.inverse)
    try:
        made = ActionSpec(action.kind, action.size, tuple(action.names), action.noop, inverse)
    except UserError as error:
        raise UserError(f"{where} is damaged: {error}") from None
    spec = check_spec(Spec({name: tuple(shape) for name, shape in stored.obs.items()}, made), where)
    if not spec.obs or max(field.bytes for field in fields_of(spec).values()) > LARGEST_ROW:
        raise UserError(f"{where} is damaged: an observation has no or more than {LARGEST_ROW} bytes")
    return spec


def read_spec(path: Path) -> Spec:
    """The Spec in a JSON file that holds what `spec_to_dict` returned. UserError: missing or damaged."""
    return restore_spec(gate.read_json(path, StoredSpec), str(path))


@dataclass(frozen=True)
class Episode:
    """T rows of one episode, in the time convention of `core.types`. `check` validates it."""

    obs: dict[str, np.ndarray]  # (T, ...); 'image' uint8 (T, C, Y, X), everything else float32
    action: np.ndarray  # (T, A) float32
    reward: np.ndarray  # (T) float32
    first: np.ndarray  # (T) bool
    last: np.ndarray  # (T) bool
    terminal: np.ndarray  # (T) bool

    def __len__(self) -> int:
        return len(self.action)

    def columns(self) -> dict[str, np.ndarray]:
        """Every array under its column name ('obs/image', 'action', ...)."""
        columns = {f"obs/{name}": array for name, array in self.obs.items()}
        return columns | {name: getattr(self, name) for name in ("action", "reward", "first", "last", "terminal")}

    @staticmethod
    def of(columns: dict[str, np.ndarray]) -> Episode:
        """The episode whose `columns()` these are."""
        obs = {name[4:]: array for name, array in columns.items() if name.startswith("obs/")}
        return Episode(obs, *(columns[name] for name in ("action", "reward", "first", "last", "terminal")))


def check_spec(spec: Spec, where: str) -> Spec:
    """Refuse (UserError) an image that is not (C, Y, X), and empty rows; returns the spec. `where` names it."""
    shape = spec.obs.get("image", (3, 1, 1))
    if len(shape) != 3:
        raise UserError(f"{where}: obs/image has rows of shape {tuple(shape)}; must be (C, Y, X)")
    for name, sides in {"action": (spec.action.size,), **{f"obs/{k}": v for k, v in spec.obs.items()}}.items():
        if not all(side > 0 for side in sides):
            raise UserError(f"{where}: {name} has rows of shape {tuple(sides)}, which hold nothing; leave it out")
    if shape[2] in (1, 3) and shape[0] not in (1, 3):
        raise UserError(
            f"{where}: obs/image has rows of shape {tuple(shape)}, which look like (Y, X, C); transpose to (C, Y, X)"
        )
    return spec


def check(episode: Episode, spec: Spec, where: str = "episode") -> Episode:
    """Refuse (UserError) what cannot be trained on; returns the episode. `where` names it in the message."""
    columns, fields = episode.columns(), fields_of(spec)
    missing = sorted(set(fields) - set(columns)) + sorted(set(columns) - set(fields))
    if missing:
        raise UserError(
            f"{where}: columns {sorted(columns)} do not fit the spec's {sorted(fields)}; differing: {missing}"
        )
    lengths = {name: len(np.atleast_1d(array)) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where}: arrays have unequal lengths {lengths}; every array needs one row per observation")
    if len(episode) < 2:
        raise UserError(
            f"{where} has length {len(episode)}: an episode needs at least 2 rows to hold a transition; leave it out"
        )
    for name, field in fields.items():
        array = columns[name]
        if array.dtype != field.dtype:
            raise UserError(f"{where}: {name} is {array.dtype}, must be {field.dtype}; convert it before recording")
        if array.shape[1:] != field.shape:
            raise UserError(
                f"{where}: {name} has rows of shape {array.shape[1:]},"
                f" the spec says {field.shape}{_turned(name, array)}"
            )
        check_finite(name, array, where)
    check_action(episode.action, spec.action, where)
    _check_flags(episode, where)
    return episode


def checked(episodes: Iterable[Episode], spec: Spec, where: str) -> Iterator[Episode]:
    """Each episode after `check`; `where` names the recording."""
    for number, episode in enumerate(episodes):
        yield check(episode, spec, f"{where}: episode {number}")


def summarize(spec: Spec, episodes: Iterable[Episode]) -> dict[str, Any]:
    """What is in a recording, as JSON values: counts, lengths, observations, use of actions, range of rewards."""
    lengths, terminal, action_use = [], 0, np.zeros(spec.action.size)
    low, high = np.inf, -np.inf
    for episode in episodes:
        lengths.append(len(episode))
        action_use += np.abs(episode.action).sum(0)
        terminal += int(episode.terminal[-1])
        low, high = min(low, float(episode.reward.min())), max(high, float(episode.reward.max()))
    return {
        "episodes": len(lengths),
        "rows": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "terminal": terminal,
        "obs": {name: list(shape) for name, shape in spec.obs.items()},
        "action": {"kind": spec.action.kind, "size": spec.action.size, "names": list(spec.action.names)},
        "action_use": (action_use / sum(lengths)).tolist(),
        "reward": [low, high],
    }


def _turned(name: str, array: np.ndarray) -> str:
    channels_last = (
        name == "obs/image" and array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3)
    )
    return "; it looks like (Y, X, C): transpose it to (C, Y, X)" if channels_last else "; reshape it"


def check_finite(name: str, array: np.ndarray, where: str) -> None:
    """Refuse NaN and infinity in a float array (T, ...)."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0]
        raise UserError(f"{where}: {name} is {array[tuple(at)]} at row {at[0]}; it must be finite, clean the recording")


def check_action(action: Float32[np.ndarray, "T A"], spec: ActionSpec, where: str) -> None:
    """Refuse actions outside the space: discrete ones must be one-hot, continuous ones lie in [-1, 1]."""
    check_finite("action", action, where)
    if spec.discrete:
        bad = ~(((action == 0) | (action == 1)).all(-1) & (action.sum(-1) == 1))  # (T)
        rule = "discrete actions are one-hot rows"
    else:
        bad = (np.abs(action) > 1).any(-1)  # (T)
        rule = "continuous actions lie in [-1, 1]: rescale them"
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise UserError(f"{where}: action {action[at].tolist()} at row {at} is out of range; {rule}")


def _check_flags(episode: Episode, where: str) -> None:
    if not episode.first[0] or episode.first[1:].any():
        raise UserError(
            f"{where}: 'first' must be true on row 0 and only there; split the recording where episodes start"
        )
    if episode.last[:-1].any():
        raise UserError(f"{where}: 'last' is true before the final row; split the recording where episodes end")
    if episode.reward[0]:
        raise UserError(
            f"{where}: reward is {episode.reward[0]:g} on its first row, where nothing has arrived yet: your rewards "
            "lie beside the action that earned them; move them down one row"
        )
    if (episode.terminal & ~episode.last).any():
        raise UserError(f"{where}: 'terminal' is true on a row that is not 'last'; a terminal row ends its episode")
