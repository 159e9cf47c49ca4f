"""Which arrays one row is made of: names, dtypes and shapes that follow from a Spec, and a Spec as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec


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
    found = [Field(f"obs/{name}", obs_dtype(name), tuple(shape)) for name, shape in spec.obs.items()]
    found.append(Field("action", np.dtype(np.float32), (spec.action.size,)))
    found.append(Field("reward", np.dtype(np.float32), ()))
    found += [Field(name, np.dtype(np.bool_), ()) for name in ("first", "last", "terminal")]
    return {field.name: field for field in found}


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


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """The Spec that `spec_to_dict` wrote."""
    action = dict(data["action"])
    action["names"] = tuple(action["names"])
    action["inverse"] = None if action["inverse"] is None else tuple(action["inverse"])
    return Spec({name: tuple(shape) for name, shape in data["obs"].items()}, ActionSpec(**action))


def save_json(path: Path, data: Any) -> None:
    """Write aside, fsync, rename: a reader sees the old file or the new one, never half of one."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "w") as file:
        json.dump(data, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load_json(path: Path) -> Any:
    """The JSON in `path`; a broken file is a UserError that names it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete the folder and record again") from error
