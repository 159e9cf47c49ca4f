"""What a study is: cells (recipe, overrides, seed), grouped by role, and the claims that it tests.

A study lives in `studies/NAME/`: `study.py` (a `STUDY`), `claims.json`, and `results/CELL.json`, which only running a
cell writes.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isochrone.core.errors import UserError, did_you_mean
from isochrone.evals.metric import Target
from isochrone.recipes.schema import Config
from isochrone.workflows.factory import make_config

SIGNS = ("<=", ">=", "<")
BASELINE = "baseline"
"""Key of the baseline in an entry of the results, and the word for it in claims."""


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluation: `recipe` with `changes` applied, from `seed`. The cells of a role differ in
    their seed only and are averaged."""

    name: str
    recipe: str
    changes: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    role: str = ""


@dataclass(frozen=True)
class Study:
    """A question and the cells that answer it, in the order in which they run.

    Args:
        roles: role -> its description, in the order of the tables.
        finding: the answer in a few sentences. '{role:metric}' stands for a mean over the role's seeds, so that no
            number is typed by hand.
        withdrawn: metric -> why its stored numbers are no longer shown, until the study is measured again.
        figure: metrics shown in the study's figure, one panel each; none for learning curves.
        changes: apply to every cell, after the cell's own.
        order: position on the index of the evidence; lower is earlier.
    """

    title: str
    question: str
    cells: Sequence[Cell]
    roles: Mapping[str, str]
    finding: str = ""
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    figure: Sequence[str] = ()
    changes: Mapping[str, str] = field(default_factory=dict)
    order: int = 1

    def cell(self, name: str) -> Cell:
        """The cell called `name`. UserError."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"no cell called '{name}' in this study{did_you_mean(name, [c.name for c in self.cells])}")

    def config(self, cell: Cell) -> Config:
        """The cell's training configuration: one CPU thread, seeded by the cell."""
        fixed = {"train.seed": str(cell.seed), "train.threads": "1", "train.accelerator": "cpu"}
        return make_config(cell.recipe, {**self.changes, **cell.changes, **fixed})


@dataclass(frozen=True)
class Claim:
    """`metric` must meet `target` in each of `roles`; `source` says who claims it.

    With `relative_to`, the target's limit is a factor: of the mean of the same metric in another role (its name), of
    the metric's own baseline (BASELINE), or of another metric of the same role (its key, e.g. 'return.noop').

    Args:
        statement: the sentence that a note or paper states, if the target is our reading of one; `source` is then
            a heading of docs/background.md. Empty for a target of the project's own.
        label, format: how the tables write the metric, where the report does not know it.
    """

    metric: str
    roles: tuple[str, ...]
    target: Target
    source: str
    statement: str = ""
    relative_to: str = ""
    label: str = ""
    format: str = ""


def find_root() -> Path:
    """The folder that holds studies/: the working folder, else the clone that this file lies in."""
    here = Path.cwd()
    return here if (here / "studies").is_dir() else Path(__file__).resolve().parents[2]


def names(root: Path) -> list[str]:
    """Every study, sorted."""
    folders = {path.parent.name for path in (root / "studies").glob("*/study.py")}
    return sorted(folders - {Path(__file__).parent.name})


def load(name: str, root: Path) -> Study:
    """The STUDY of studies/NAME/study.py. UserError when it does not exist or its cells are wrong."""
    if name not in names(root):
        raise UserError(f"no study called '{name}'{did_you_mean(name, names(root))}")
    study = runpy.run_path(str(root / "studies" / name / "study.py")).get("STUDY")
    if not isinstance(study, Study):
        raise UserError(f"studies/{name}/study.py defines no STUDY: set it to a Study of its cells")
    cells = [cell.name for cell in study.cells]
    if repeated := sorted({cell for cell in cells if cells.count(cell) > 1}):
        raise UserError(f"studies/{name}/study.py has two cells called '{repeated[0]}': use each name once")
    for cell in study.cells:
        if cell.role not in study.roles:
            raise UserError(f"cell '{cell.name}' has the role '{cell.role}'{did_you_mean(cell.role, study.roles)}")
    return study


def load_claims(name: str, study: Study, root: Path) -> list[Claim]:
    """The claims of studies/NAME/claims.json; none when there is no such file. UserError where it is wrong."""
    path = root / "studies" / name / "claims.json"
    if not path.exists():
        return []
    try:
        claims = [_claim(entry, study) for entry in json.loads(path.read_text(encoding="utf-8"))["claims"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"studies/{name}/claims.json is not a list of claims: {error!r}; see another study's") from None
    pairs = [(claim.metric, role) for claim in claims for role in claim.roles]
    if repeated := sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        metric, role = repeated[0]
        raise UserError(f"studies/{name}/claims.json: two claims on {metric} of '{role}': a metric has one target")
    return claims


def _claim(entry: Mapping[str, Any], study: Study) -> Claim:
    metric, roles, base = str(entry["metric"]), tuple(entry["roles"]), str(entry.get("relative_to", ""))
    if entry["sign"] not in SIGNS:
        raise UserError(f"claim on {metric}: sign '{entry['sign']}' must be one of {', '.join(SIGNS)}")
    for role in roles:
        if role not in study.roles:
            raise UserError(f"claim on {metric}: no role called '{role}'{did_you_mean(role, study.roles)}")
    if base and "." not in base and base not in (BASELINE, *study.roles):
        raise UserError(
            f"claim on {metric}: relative_to '{base}' is neither '{BASELINE}' nor a metric nor a role"
            f"{did_you_mean(base, study.roles)}"
        )
    if base in roles:
        raise UserError(f"claim on {metric}: role '{base}' is compared with itself; name another, or '{BASELINE}'")
    target = Target(entry["sign"], float(entry["target"]))
    text = {key: str(entry.get(key, "")) for key in ("statement", "label", "format")}
    return Claim(metric, roles, target, str(entry["source"]), relative_to=base, **text)
