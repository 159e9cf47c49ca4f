"""A format from outside: a folder with a .npz file for each episode."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from isochrone.core.files import atomic_write
from isochrone.core.types import Spec
from isochrone.data.episode import Episode, read_spec, spec_to_dict


class NpzFolder:
    """spec.json, and one .npz file for each episode, called NUMBER_ROWS.npz."""

    streamed = True

    def detect(self, path: Path) -> bool:
        return path.suffix == ".episodes"

    def spec(self, path: Path) -> Spec:
        return read_spec(path / "spec.json")

    def lengths(self, path: Path) -> np.ndarray | None:
        return (
            np.array([int(file.stem.split("_")[1]) for file in sorted(path.glob("*.npz"))]) if self.streamed else None
        )

    def read(self, path: Path) -> Iterator[Episode]:
        for file in sorted(path.glob("*.npz")):
            with np.load(file, allow_pickle=False) as columns:
                yield Episode.of({name.replace(":", "/"): columns[name] for name in columns.files})

    def write(self, path: Path, episodes: Iterable[Episode], spec: Spec) -> int:
        path.mkdir()
        for count, episode in enumerate(episodes):
            columns = {name.replace("/", ":"): array for name, array in episode.columns().items()}
            np.savez(path / f"{count:05d}_{len(episode)}.npz", **columns)  # pyright: ignore[reportArgumentType]
        atomic_write(path / "spec.json", json.dumps(spec_to_dict(spec)))
        return len(list(path.glob("*.npz")))
