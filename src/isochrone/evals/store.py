"""Figures and curves on disk: whole files or none, with the arrays of the figures beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isochrone.core.files import atomic_write, writing
from isochrone.evals.figure import png


def save_figures(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    """Write every Figure (or PNG bytes) as NAME.png; returns the paths."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        atomic_write(path, figure if isinstance(figure, bytes) else png(figure))
        paths.append(path)
    return paths


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays as JSON (NaN and infinity as null): a figure can be drawn again elsewhere."""
    atomic_write(path, json.dumps({k: _listed(np.asarray(v)) for k, v in arrays.items()}, allow_nan=False) + "\n")


def _listed(x: np.ndarray) -> Any:
    if x.dtype.kind != "f":
        return x.tolist()
    rounded = np.round(x.astype(np.float64), 6)
    if not np.isfinite(x).all():
        rounded = rounded.astype(object)
        rounded[~np.isfinite(x)] = None
    return rounded.tolist()


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """{'training.NAME': (N, 2) of (step, value)} from the rows of a run's metrics.jsonl."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                points.setdefault(name, []).append((row["step"], value))
    return {f"training.{k}": np.array(v, float) for k, v in points.items()}
