"""LeRobot datasets of version 3, read-only: a folder with tables (parquet) and videos (mp4) of several episodes each.

    meta/info.json            version, frames per second, features, patterns of the file names
    meta/episodes/*/*.parquet for each episode its rows, its files, and where it begins in each video
    meta/stats.json           smallest and largest action, which become -1 and 1
    data/*/*.parquet          one row per frame: action, observation.*, and next.reward where there is a reward
    videos/CAMERA/*/*.mp4     the frames

The first camera becomes 'image', every vector below 'observation.' an observation. next.reward belongs to the action
of its row, so it moves to the row after; that of an episode's last action is left out, for its arrival is not recorded.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from isochrone.core.errors import MissingExtra, UserError
from isochrone.core.images import channels_first, is_picture
from isochrone.core.registry import register
from isochrone.core.types import Spec
from isochrone.data.actions import Discrete, Scaled, action_code
from isochrone.data.episode import Episode

_LOG = logging.getLogger("isochrone")
CAMERA = ("video", "image")
"""dtype of a feature that is a camera."""


@register("format", "lerobot")
class LeRobot:
    """Read LeRobot v3 folders. Needs the extra lerobot (pyarrow, and av for videos)."""

    def detect(self, path: Path) -> bool:
        """A folder with meta/info.json."""
        return (path / "meta" / "info.json").is_file()

    def spec(self, path: Path) -> Spec:
        """Observations and actions."""
        return Folder(path).spec

    def lengths(self, path: Path) -> Int64[np.ndarray, "E"]:
        """Rows of each episode."""
        return np.array([int(about["length"]) for about in Folder(path).episodes], np.int64)

    def read(self, path: Path) -> Iterator[Episode]:
        """The episodes, one by one."""
        folder = Folder(path)
        if len(folder.cameras) > 1:
            _LOG.info("%s: shows '%s'; others: %s", path, folder.cameras[0], ", ".join(folder.cameras[1:]))
        for about in folder.episodes:
            yield folder.episode(about)

    def write(self, path: Path, episodes: Iterable[Episode], spec: Spec) -> int:
        """Refused."""
        raise UserError(f"{path}: LeRobot datasets are only read; write an .h5 file")


class Folder:
    """An open dataset. UserError for another version, for missing or damaged files, and for features of no use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info = self._json("info.json")
        self.features: dict[str, Any] = self.info.get("features", {})
        if not str(self.info.get("codebase_version", "")).startswith("v3"):
            raise UserError(
                f"{path} is a LeRobot dataset of version {self.info.get('codebase_version')}, this reads v3: convert "
                "it with LeRobot first"
            )
        if "action" not in self.features:
            raise UserError(f"{path}: no feature 'action'; it has {', '.join(self.features) or 'none'}")
        self.cameras = [name for name, about in self.features.items() if about.get("dtype") in CAMERA]
        self.episodes = self._episodes()
        self.vectors = {
            re.sub(r"\W", "_", name.removeprefix("observation.")): name
            for name, about in self.features.items()
            if name.startswith("observation.") and str(about.get("dtype")).startswith("float")
        }
        self._table: tuple[Path, Any] | None = None  # the newest: episodes of one file follow each other
        self.code = self._action_code()
        obs: dict[str, tuple[int, ...]] = {"image": self._image_shape()} if self.cameras else {}
        obs |= {ours: tuple(self.features[theirs]["shape"]) for ours, theirs in self.vectors.items()}
        self.spec = Spec(obs, self.code.spec)

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / "meta" / name
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); copy the dataset again") from error
        if not isinstance(content, dict):
            raise UserError(f"{file} holds no object; copy the dataset again")
        return content

    def _image_shape(self) -> tuple[int, ...]:
        shape = tuple(self.features[self.cameras[0]]["shape"])
        if not is_picture(shape):
            raise UserError(f"{self.path}: camera '{self.cameras[0]}' has shape {shape}, which is no picture")
        return channels_first(np.empty(shape, np.uint8)).shape

    def _episodes(self) -> list[dict[str, Any]]:
        """The metadata of each episode."""
        files = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
        rows = [row for file in files for row in self._read(file).to_pylist()]
        if not rows:
            raise UserError(f"{self.path}: meta/episodes lists no episodes; copy the dataset again")
        return sorted(rows, key=lambda row: row["episode_index"])

    def _action_code(self) -> Discrete | Scaled:
        stats = self._json("stats.json").get("action", {}) if (self.path / "meta" / "stats.json").is_file() else {}
        whole = not str(self.features["action"].get("dtype")).startswith("float")
        space: Mapping[str, Any] = {} if whole else {"low": stats.get("min", np.nan), "high": stats.get("max", np.nan)}
        files = sorted((self.path / "data").glob("*/*.parquet"))
        return action_code(self.path, (_array(self._read(file, ["action"]), "action") for file in files), space)[0]

    def _read(self, file: Path, columns: list[str] | None = None) -> Any:
        try:
            from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtra("format 'lerobot'", "pyarrow", "lerobot") from None
        try:
            return parquet.read_table(file, columns=columns)
        except (OSError, ArrowException) as error:
            raise UserError(f"{file} is missing or damaged ({error}); copy the dataset again") from error

    def _file(self, pattern: str, **where: Any) -> Path:
        """The file that a pattern of info.json names."""
        name = Path(str(self.info[pattern]).format(**where))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{self.path}: {pattern} of meta/info.json leads out of the folder: {str(name)!r}")
        return self.path / name

    def _rows(self, about: Mapping[str, Any]) -> Any:
        """The table of one episode's rows."""
        where = {"chunk_index": about["data/chunk_index"], "file_index": about["data/file_index"]}
        file = self._file("data_path", **where)
        if self._table is None or self._table[0] != file:
            self._table = file, self._read(file)
        table = self._table[1]
        mine = np.flatnonzero(table["episode_index"].to_numpy() == about["episode_index"])
        if len(mine) != about["length"]:
            raise UserError(
                f"{file} holds {len(mine)} rows of episode {about['episode_index']}, meta/episodes says "
                f"{about['length']}; copy the dataset again"
            )
        return table.take(mine)

    def episode(self, about: Mapping[str, Any]) -> Episode:
        """The episode with this metadata."""
        try:
            table, rows = self._rows(about), int(about["length"])
            obs = {ours: _array(table, theirs).astype(np.float32) for ours, theirs in self.vectors.items()}
            if self.cameras:
                obs["image"] = self._frames(self.cameras[0], table, about)
            reward = np.zeros(rows, np.float32)
            if "next.reward" in table.column_names:
                reward[1:] = _array(table, "next.reward").reshape(rows)[:-1]
            action = self.code.encode(_array(table, "action"))
        except KeyError as error:
            raise UserError(
                f"{self.path}: episode {about.get('episode_index')} has no {error}; copy it again"
            ) from error
        first, last = np.arange(rows) == 0, np.arange(rows) == rows - 1
        return Episode(obs, action, reward, first, last, np.zeros(rows, np.bool_))

    def _frames(self, camera: str, table: Any, about: Mapping[str, Any]) -> UInt8[np.ndarray, "T C Y X"]:
        if self.features[camera]["dtype"] == "image":
            return np.stack([_decoded(picture["bytes"]) for picture in table[camera].to_pylist()])
        prefix = f"videos/{camera}/"
        where = {"chunk_index": about[f"{prefix}chunk_index"], "file_index": about[f"{prefix}file_index"]}
        file = self._file("video_path", video_key=camera, **where)
        begin, fps = float(about[f"{prefix}from_timestamp"]), float(self.info["fps"])
        frames = _video(file, begin - 0.5 / fps, int(about["length"]))
        if len(frames) < about["length"]:
            raise UserError(f"{file} ends {about['length'] - len(frames)} frames too early; copy the dataset again")
        return np.stack(frames)


def _array(table: Any, name: str) -> np.ndarray:
    """A column of a table (N, ...)."""
    return np.array(table[name].to_pylist())


def _decoded(data: bytes) -> UInt8[np.ndarray, "C Y X"]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def _video(file: Path, begin: float, count: int) -> list[UInt8[np.ndarray, "C Y X"]]:
    """Up to `count` frames from `begin` seconds on."""
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("format 'lerobot'", "av", "lerobot") from None
    frames: list[np.ndarray] = []
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            if begin > 0 and stream.time_base:
                container.seek(int(begin / stream.time_base), stream=stream)  # to the key frame before
            for frame in container.decode(stream):
                if frame.time is not None and frame.time >= begin:
                    frames.append(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
                if len(frames) == count:
                    break
    except (OSError, ValueError, IndexError) as error:  # av's errors are OSErrors or ValueErrors too
        raise UserError(f"{file} is missing or damaged ({error}); copy the dataset again") from error
    return frames
