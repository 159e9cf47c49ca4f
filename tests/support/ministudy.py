"""A miniature study for tests of tables and verdicts, and results as its cells would write them."""

from pathlib import Path

from studies.harness import result, study

STUDY = """
from studies.harness.study import Cell, Study

STUDY = Study(
    title="a miniature study",
    question="Does it add up?",
    finding="The rank correlation is {a:reach.spearman}.",
    figure=("reach.spearman", "planning.cem.success"),
    cells=[Cell(f"a-{seed}", "tiny", {"eval.seed": str(seed)}, seed, "a") for seed in range(3)]
    + [Cell("b-0", "tiny", {"env.map_file": "studies/mini/own.txt"}, 0, "b")],
    roles={"a": "tiny in the cabin", "b": "tiny elsewhere"},
)
"""
CLAIMS = [
    {"metric": "reach.spearman", "roles": ["a"], "sign": ">=", "target": 0.9, "source": "a test"},
    {"metric": "planning.cem.success", "roles": ["a"], "sign": ">=", "target": 0.95, "source": "a test"},
    {"metric": "belief.velocity_r2", "roles": ["a"], "sign": ">=", "target": 0.5, "source": "a test"},
]
VALUES = [(0.90, 40, 50), (0.94, 50, 50), (0.95, 45, 50)]


def store(root: Path, cell: str, spearman: float, solved: int, pairs: int) -> None:
    """A result as a cell would write it."""
    this = study.load("mini", root)
    values = {
        "reach.spearman": {"value": spearman, "low": 0.1, "high": 0.2, study.BASELINE: 0.5},
        "planning.cem.success": {"value": solved / pairs, "bar": ">= 1", "met": False},
        "planning.cem.pairs": {"value": float(pairs)},
        "planning.noop.success": {"value": 0.0},
        "planning.noop.pairs": {"value": float(pairs)},
        "seconds.train": {"value": 100 / 3},
    }
    more = {
        "pairs": {"astar|cem": {"both": solved, "first": pairs - solved, "second": 0, "neither": 0}},
        "messages": {"refused": "no", "liveness": ["'x' is an identity: value 1.0e-12 on every probe, whatever"]},
    }
    packed = result.pack("mini", this, this.cell(cell), root, values, more)
    result.write(result.path_of(root, "mini", cell), packed)
