"""What a study is: cells (recipe, changes, seed), grouped by role, and the claims that it puts to the test.

A study lives in `studies/NAME/` of a clone: `study.py` (a `STUDY`), `claims.json`, and `results/CELL.json`, which only
running makes.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isochrone.core.errors import UserError, did_you_mean
from isochrone.evals.bars import Bar
from isochrone.recipes.schema import Config
from isochrone.workflows import build

SIGNS = ("<=", ">=", "<")
FLOOR = "floor"


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation: `recipe` with `changes` laid over it, from `seed`. Cells of one role differ in
    their seed only and are averaged."""

    name: str
    recipe: str
    changes: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    role: str = ""


@dataclass(frozen=True)
class Study:
    """A question and the cells that answer it, in the order in which they run.

    `roles` says what each role is, in the order of the table. `changes` hold for every cell; a cell's own go before.
    """

    title: str
    question: str
    cells: Sequence[Cell]
    roles: Mapping[str, str]
    changes: Mapping[str, str] = field(default_factory=dict)

    def cell(self, name: str) -> Cell:
        """The cell called `name`."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"no cell called '{name}' in this study{did_you_mean(name, [c.name for c in self.cells])}")

    def config(self, cell: Cell) -> Config:
        """What the cell trains: one thread on the CPU, seeded by the cell."""
        fixed = {"train.seed": str(cell.seed), "train.threads": "1", "train.accelerator": "cpu"}
        return build.recipe(cell.recipe, {**self.changes, **cell.changes, **fixed})


@dataclass(frozen=True)
class Claim:
    """`row` (a number of the results) of these roles must keep to `bar`; `source` says who claims it.

    With `of`, the bar's limit is a factor: of the mean of the same row in another role (its name), of the row's own
    floor ('floor'), or of another row of the same role (its key, e.g. 'return.noop')."""

    row: str
    roles: tuple[str, ...]
    bar: Bar
    source: str
    of: str = ""
    says: str = ""  # the row's name in the table, where the report has none for it
    style: str = ""


def root() -> Path:
    """The folder that holds studies/: the working folder, else the clone that this code lies in. UserError."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (folder / "studies").is_dir():
            return folder
    raise UserError("there is no folder 'studies' here: run this in a clone of the project")


def names(at: Path | None = None) -> list[str]:
    """Every study, sorted."""
    return sorted(path.parent.name for path in ((at or root()) / "studies").glob("*/study.py"))


def load(name: str, at: Path | None = None) -> Study:
    """The STUDY of studies/NAME/study.py. UserError when it is not there or its cells are wrong."""
    at = at or root()
    if name not in names(at):
        raise UserError(f"no study called '{name}'{did_you_mean(name, names(at))}")
    study = runpy.run_path(str(at / "studies" / name / "study.py")).get("STUDY")
    if not isinstance(study, Study):
        raise UserError(f"studies/{name}/study.py defines no STUDY: set it to a Study of its cells")
    twice = sorted({c.name for c in study.cells if [d.name for d in study.cells].count(c.name) > 1})
    if twice:
        raise UserError(f"studies/{name}/study.py has two cells called '{twice[0]}': a name is used once")
    for cell in study.cells:
        if cell.role not in study.roles:
            raise UserError(f"cell '{cell.name}' has the role '{cell.role}'{did_you_mean(cell.role, study.roles)}")
    return study


def claims(name: str, study: Study, at: Path | None = None) -> list[Claim]:
    """What studies/NAME/claims.json says; none when there is no such file. UserError where it is wrong."""
    path = (at or root()) / "studies" / name / "claims.json"
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["claims"]
        made = [_claim(entry, study) for entry in found]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"studies/{name}/claims.json is not a list of claims: {error!r}; see another study's") from None
    said = [(claim.row, role) for claim in made for role in claim.roles]
    if twice := sorted({both for both in said if said.count(both) > 1}):
        raise UserError(
            f"studies/{name}/claims.json: two claims on {twice[0][0]} of '{twice[0][1]}': a row has one bar"
        )
    return made


def _claim(entry: Mapping[str, Any], study: Study) -> Claim:
    if entry["sign"] not in SIGNS:
        raise UserError(f"claim on {entry['row']}: sign '{entry['sign']}' must be one of {', '.join(SIGNS)}")
    for role in entry["roles"]:
        if role not in study.roles:
            raise UserError(f"claim on {entry['row']}: no role called '{role}'{did_you_mean(role, study.roles)}")
    bar = Bar(entry["sign"], float(entry["number"]))
    of = str(entry.get("of", ""))
    if of and "." not in of and of not in (FLOOR, *study.roles):
        raise UserError(
            f"claim on {entry['row']}: of '{of}' is neither '{FLOOR}' nor a row nor a role"
            f"{did_you_mean(of, study.roles)}"
        )
    if of in entry["roles"]:
        raise UserError(f"claim on {entry['row']}: role '{of}' is compared with itself; name another, or '{FLOOR}'")
    said = str(entry.get("says", "")), str(entry.get("style", ""))
    return Claim(str(entry["row"]), tuple(entry["roles"]), bar, str(entry["source"]), of, *said)
