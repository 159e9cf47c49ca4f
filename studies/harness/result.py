"""The result of a finished cell: one small JSON file, and whether it still belongs to the cell's configuration."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from isochrone.core.config import from_dict, to_dict
from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.evals.suite import Results
from isochrone.recipes.schema import Config
from isochrone.training.checkpoint import config_hash
from isochrone.training.versions import versions
from studies.harness.study import BASELINE, Cell, Study

State = Literal["done", "missing", "stale"]
STORED = ("value", "low", "high", BASELINE, "refused")
"""Parts of an entry of the results that are stored; targets belong to the claims."""


def path_of(root: Path, study: str, cell: str) -> Path:
    """studies/STUDY/results/CELL.json."""
    return root / "studies" / study / "results" / f"{cell}.json"


def read(path: Path) -> dict[str, Any] | None:
    """A stored result; None when there is none. UserError when it is unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path.name} is not a result ({error}): delete it and run the study again") from None


def read_all(root: Path, name: str, study: Study) -> dict[str, dict[str, Any]]:
    """{cell: result} of every finished cell, in the order of the study."""
    results = {cell.name: read(path_of(root, name, cell.name)) for cell in study.cells}
    return {cell: result for cell, result in results.items() if result is not None}


def state(root: Path, study: Study, cell: Cell, result: Mapping[str, Any] | None) -> State:
    """'stale': the result was measured with another config (or map file) than the cell has now.

    A newer option that the recipe leaves at its default does not make a result stale.
    """
    if result is None:
        return "missing"
    try:
        then = to_dict(from_dict(Config, result["config"]))
        now = study.config(cell)
    except (UserError, KeyError):
        return "stale"
    same = (config_hash(then), result.get("drawing")) == (config_hash(to_dict(now)), drawing(root, now))
    return "done" if same else "stale"


def drawing(root: Path, config: Config) -> str | None:
    """Hash of the user's own map file, twelve hex digits; None without one."""
    file = getattr(config.env, "map_file", None)
    if not file:
        return None
    try:
        return drawing_hash(root / file)
    except OSError as error:
        raise UserError(f"map file '{file}' cannot be read: {error.strerror}; check the path in the study") from None


def drawing_hash(file: Path) -> str:
    """Twelve hex digits that change with a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def pack(
    name: str,
    study: Study,
    cell: Cell,
    root: Path,
    values: Results,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of a cell's file. `more`: its paired successes of planners, messages and learning curve."""
    config, info = study.config(cell), versions()
    return {
        "study": name,
        "cell": cell.name,
        "role": cell.role,
        "recipe": cell.recipe,
        "seed": cell.seed,
        "changes": {**study.changes, **cell.changes},
        "config_hash": config_hash(to_dict(config)),
        "drawing": drawing(root, config),
        "code": {"isochrone": info["code"], "commit": info["commit"]},
        "packages": {"python": info["python"], "torch": info["packages"]["torch"], "numpy": info["packages"]["numpy"]},
        "machine": {
            "cpu": processor(),
            "cores": info["machine"]["cores"],
            "threads": info["threads"],
            "system": info["machine"]["system"],
        },
        "values": {key: {k: short(e[k]) for k in STORED if k in e} for key, e in sorted(values.items())},
        **more,
        "config": to_dict(config),
    }


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Atomic; innermost groups on one line each, so that a diff shows one line per change."""
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    text = re.sub(r"[{\[][^{}\[\]]*[}\]]", lambda m: re.sub(r"\n\s*", " ", m[0]), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text + "\n")


def short(value: Any) -> Any:
    """Floats with six significant digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def processor() -> str:
    """The name of the CPU model."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    return model or platform.processor() or os.uname().machine
