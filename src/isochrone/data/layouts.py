"""How other libraries lay recordings out on disk. `data.convert` turns what is read here into our episodes.

    minari               folder or main_data.hdf5: episode_N/{observations (T + 1), actions, rewards, terminations (T)}
    d4rl                 HDF5 or npz, end to end: observations, actions, rewards, terminals, timeouts (N)
    ogbench              the same without rewards and timeouts; terminals mark where a trajectory ends
    robomimic            HDF5: data/demo_N/{obs/NAME, next_obs/NAME, actions, rewards, dones} (T)
    stable-worldmodel    HDF5, end to end: columns (N), ep_len and ep_offset (E)

All but the last keep the reward of a step beside its action; we keep it on the row of its arrival.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from isochrone.core.errors import UserError, did_you_mean

Node = Mapping[str, Any]
"""An open file or a group in it: h5py.Group, or the arrays of an npz file."""


class Rows:
    """Rows `begin` to `end` of a stored array, read when asked for, and the row `extra` behind them."""

    def __init__(self, data: Any, begin: int = 0, end: int | None = None, extra: np.ndarray | None = None) -> None:
        self.data, self.begin, self.end, self.extra = data, begin, len(data) if end is None else end, extra
        self.dtype: np.dtype = data.dtype
        self.shape: tuple[int, ...] = (self.end - self.begin + (extra is not None), *data.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def read(self) -> np.ndarray:
        """The rows."""
        rows = np.asarray(self.data[self.begin : self.end])
        return rows if self.extra is None else np.concatenate([rows, self.extra[None]])


class Jpegs:
    """Pictures of the given shape, each stored as the bytes of a JPEG file."""

    dtype = np.dtype(np.uint8)

    def __init__(self, data: Any, shape: Sequence[int]) -> None:
        self.data, self.shape = data, (len(data), *shape)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: slice) -> np.ndarray:
        from PIL import Image

        return np.stack([np.asarray(Image.open(io.BytesIO(np.asarray(jpeg).tobytes()))) for jpeg in self.data[rows]])


@dataclass(frozen=True)
class Recorded:
    """One episode of another library: R observations, and T = R or R - 1 actions, of which action t was taken at t."""

    obs: Mapping[str, Rows]  # R rows each
    action: Rows  # T rows
    reward: Rows | None  # T rows, received for action t; with `on_arrival` R rows, received on arriving at t
    terminal: bool  # the last observation ended the episode for good
    on_arrival: bool = False


@dataclass(frozen=True)
class Layout:
    """A way to lay recordings out: does a file look like it, its episodes, and its action space where it is stored."""

    detect: Callable[[Node], bool]
    episodes: Callable[[Node, Mapping[str, Any]], Iterator[Recorded]]


# --- opening ----------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[tuple[Node, dict[str, Any]]]:
    """(the open file, the metadata beside it) of a recording; UserError for what is neither HDF5 nor npz."""
    file = next((f for f in (path / "data" / MINARI, path / MINARI) if f.is_file()), path)
    if not file.is_file():
        what = f"is a folder without {MINARI}" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: give an HDF5 or npz file, or the folder of a Minari dataset")
    try:
        if zipfile.is_zipfile(file):
            with np.load(file, allow_pickle=False) as arrays:
                yield dict(arrays), {}
            return
        about = json.loads(beside.read_text()) if (beside := file.with_name("metadata.json")).is_file() else {}
        with h5py.File(file, "r") as opened_file:
            yield cast(Node, opened_file), about if isinstance(about, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a recording: {type(error).__name__}: {error}") from error


def layout_of(path: Path, file: Node, name: str | None = None) -> str:
    """The name of the layout: `name` if given, else the first that detects the file; UserError where none does."""
    if name is not None:
        if name not in LAYOUTS:
            raise UserError(f"no layout called '{name}'{did_you_mean(name, LAYOUTS)}")
        return name
    names = [name for name, layout in LAYOUTS.items() if layout.detect(file)]
    if not names:
        raise UserError(
            f"{path} is in none of the layouts {', '.join(LAYOUTS)}; it holds {', '.join(contents(file)) or 'nothing'}"
        )
    return names[0]


def contents(file: Node, most: int = 12) -> list[str]:
    """Names of what is in a file, the first few."""
    names = list(leaves(file))
    return [*names[:most], *(["..."] if len(names) > most else [])]


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Every array below a group, by its path; an array itself is ''."""
    if not isinstance(node, Mapping):
        return {prefix.rstrip("/"): node}
    found: dict[str, Any] = {}
    for name, inner in cast(Node, node).items():
        found |= leaves(inner, f"{prefix}{name}/")
    return found


def _numbered(names: Iterator[str] | Sequence[str], prefix: str) -> list[str]:
    """The names `prefix`N, in the order of N."""
    found = [name for name in names if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(found, key=lambda name: int(name[len(prefix) :]))


# --- Minari -----------------------------------------------------------------------------------------------------------

MINARI = "main_data.hdf5"


def _is_minari(file: Node) -> bool:
    names = _numbered(list(file), "episode_")
    return bool(names) and isinstance(file[names[0]], Mapping) and {"observations", "actions"} <= set(file[names[0]])


def _minari(file: Node, about: Mapping[str, Any]) -> Iterator[Recorded]:
    space = space_of(about, "observation_space")
    for name in _numbered(list(file), "episode_"):
        group = file[name]
        obs = {path: Rows(_decoded(data, space, path)) for path, data in leaves(group["observations"]).items()}
        yield Recorded(
            obs, Rows(_only(group["actions"], name)), Rows(group["rewards"]), bool(np.any(group["terminations"][-1:]))
        )


def _decoded(data: Any, space: Mapping[str, Any], path: str) -> Any:
    """Pictures are stored as JPEG, unless the dataset was made without."""
    for key in path.split("/") if path else ():
        space = space.get("subspaces", {}).get(key, {})
    shape = space.get("shape", ())
    return Jpegs(data, shape) if len(shape) >= 2 and data.ndim <= 2 and space.get("dtype") == "uint8" else data


def space_of(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A Gymnasium space as Minari writes it into its metadata, {} where there is none."""
    text = about.get(name)
    space = json.loads(text) if isinstance(text, str) else {}
    return space if isinstance(space, dict) else {}


def _only(node: Any, where: str) -> Any:
    if isinstance(node, Mapping):
        raise UserError(f"{where}: its actions are a group of {', '.join(node)}: only one array of actions can be used")
    return node


# --- end to end -------------------------------------------------------------------------------------------------------


def _is_flat(file: Node) -> bool:
    return {"observations", "actions"} <= set(file) and not isinstance(file["actions"], Mapping)


def _is_d4rl(file: Node) -> bool:
    return _is_flat(file) and bool({"rewards", "timeouts", "next_observations"} & set(file))


def _d4rl(file: Node, about: Mapping[str, Any]) -> Iterator[Recorded]:
    """A transition ends its episode where `terminals` or `timeouts` say so; its arrival is in next_observations."""
    action = file["actions"]
    terminal = _flags(file, "terminals", len(action))
    arrivals = leaves(file["next_observations"]) if "next_observations" in file else {}
    for begin, end in _spans(terminal | _flags(file, "timeouts", len(action))):
        obs = {
            path: Rows(data, begin, end, np.asarray(arrivals[path][end - 1]) if path in arrivals else None)
            for path, data in leaves(file["observations"]).items()
        }
        reward = Rows(file["rewards"], begin, end) if "rewards" in file else None
        yield Recorded(obs, Rows(action, begin, end), reward, bool(terminal[end - 1] and arrivals))


def _ogbench(file: Node, about: Mapping[str, Any]) -> Iterator[Recorded]:
    """`terminals` marks the last observation of a trajectory; the action there leads nowhere."""
    action = file["actions"]
    for begin, end in _spans(_flags(file, "terminals", len(action))):
        obs = {path: Rows(data, begin, end) for path, data in leaves(file["observations"]).items()}
        reward = Rows(file["rewards"], begin, end) if "rewards" in file else None
        yield Recorded(obs, Rows(action, begin, end), reward, terminal=False)


def _flags(file: Node, name: str, rows: int) -> np.ndarray:
    return np.asarray(file[name][:]).reshape(rows).astype(bool) if name in file else np.zeros(rows, bool)


def _spans(last: np.ndarray) -> Iterator[tuple[int, int]]:
    """(begin, end) of each episode, whose final rows are given; the last may be cut off."""
    begin = 0
    for end in [*(np.flatnonzero(last) + 1).tolist(), len(last)]:
        if end > begin:
            yield begin, end
        begin = end


# --- robomimic --------------------------------------------------------------------------------------------------------


def _is_robomimic(file: Node) -> bool:
    data = file.get("data")
    names = _numbered(list(data), "demo_") if isinstance(data, Mapping) else []
    return bool(names) and "actions" in cast(Node, data)[names[0]]


def _robomimic(file: Node, about: Mapping[str, Any]) -> Iterator[Recorded]:
    """`dones` may only say that the recording ended, so an episode is terminal where its last step also paid."""
    for name in _numbered(list(file["data"]), "demo_"):
        group = file["data"][name]
        if "obs" not in group:
            raise UserError(f"data/{name} holds no 'obs', only states: extract observations with robomimic first")
        arrivals = leaves(group["next_obs"]) if "next_obs" in group else {}
        obs = {
            path: Rows(data, extra=np.asarray(arrivals[path][-1]) if path in arrivals else None)
            for path, data in leaves(group["obs"]).items()
        }
        reward = Rows(group["rewards"]) if "rewards" in group else None
        ended = all(name in group and bool(group[name][-1] > 0) for name in ("dones", "rewards"))
        yield Recorded(obs, Rows(group["actions"]), reward, bool(arrivals) and ended)


# --- stable-worldmodel ------------------------------------------------------------------------------------------------

_SWM = ("ep_len", "ep_offset")


def _stable_worldmodel(file: Node, about: Mapping[str, Any]) -> Iterator[Recorded]:
    """Everything is on the row of its arrival but the action, whose last row is empty."""
    names = set(file) - {*_SWM, "action", "reward", "terminated", "truncated", "ep_idx", "step_idx"}
    for length, begin in zip(file["ep_len"][:].tolist(), file["ep_offset"][:].tolist(), strict=True):
        end = begin + length
        obs = {name: Rows(file[name], begin, end) for name in sorted(names) if not isinstance(file[name], Mapping)}
        terminal = "terminated" in file and bool(np.any(file["terminated"][end - 1 : end]))
        reward = Rows(file["reward"], begin, end) if "reward" in file else None
        yield Recorded(obs, Rows(file["action"], begin, end - 1), reward, terminal, on_arrival=True)


LAYOUTS = {
    "minari": Layout(_is_minari, _minari),
    "robomimic": Layout(_is_robomimic, _robomimic),
    "stable-worldmodel": Layout(lambda file: {*_SWM, "action"} <= set(file), _stable_worldmodel),
    "d4rl": Layout(_is_d4rl, _d4rl),
    "ogbench": Layout(lambda file: _is_flat(file) and "terminals" in file, _ogbench),
}
