"""Does a change move a number? Trains three recipes and compares weights and metrics with a record. Prints JSON.

    python bench/same_bits.py --record FILE          before the change
    python bench/same_bits.py --against FILE         after it; exit code 1 when anything differs

`tiny` runs as it is, `planet_small` and `dreamer_v3` for 60 steps; the first two are evaluated as well. Names may
change in between: weights are compared by the sorted SHA-256 of their tensors, metrics by the sorted values of each
row that is logged and of results.json. Seconds and rates are left out. The same processor and torch are needed for
equal bits. It takes about 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

RUNS = {
    "tiny": ["--then", "eval"],
    "planet_small": ["--train.steps", "60", "--train.log-every", "10", "--then", "eval"],
    "dreamer_v3": ["--train.steps", "60", "--train.log-every", "10", "--then", ""],
}
TIMED = ("time_", "seconds", "steps_per_s", "frames_per_s", "decode_cost", "cost.frames")
"""Metrics that depend on the clock: those whose name holds one of these."""


def weights(run: Path) -> str:
    """One hash over all tensors of the newest checkpoint, whatever their names are."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    hashes = []
    with safe_open(newest / "weights.safetensors", framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - not a dict
            tensor = stored.get_tensor(name)
            head = f"{tuple(tensor.shape)}{tensor.dtype}".encode()
            hashes.append(hashlib.sha256(head + tensor.numpy().tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def metrics(run: Path) -> dict[str, Any]:
    """{'rows': [sorted values of each row of metrics.jsonl], 'results': sorted values of results.json}."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    compared = [sorted(repr(v) for k, v in row.items() if not any(word in k for word in TIMED)) for row in rows]
    path = run / "results.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    values = [e["value"] for k, e in results.items() if not any(word in k for word in TIMED)]
    return {"rows": compared, "results": sorted(map(repr, values))}


def read(folder: Path) -> dict[str, Any]:
    """{recipe: its weights and metrics} of the runs in a folder."""
    return {recipe: {"weights": weights(folder / recipe), **metrics(folder / recipe)} for recipe in RUNS}


def train(folder: Path) -> None:
    """Run every recipe, one after the other, in one thread each."""
    for recipe, words in RUNS.items():
        command = [sys.executable, "-m", "isochrone", "train", recipe, "--run", str(folder / recipe), *words]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def main() -> int:
    """0 when everything is the same, or was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument(
        "--runs", type=Path, help="a folder with finished runs of all recipes, to read instead of training"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.runs is None:
            train(Path(folder))
        result = read(args.runs or Path(folder))
    if args.record:
        args.record.write_text(json.dumps(result, indent=1) + "\n")
    expected = json.loads(args.against.read_text()) if args.against else result
    same = {recipe: {key: result[recipe][key] == expected[recipe][key] for key in result[recipe]} for recipe in RUNS}
    print(
        json.dumps({"bench": "same_bits", "same": same, "weights": {r: result[r]["weights"] for r in RUNS}}, indent=1)
    )
    return int(not all(value for each in same.values() for value in each.values()))


if __name__ == "__main__":
    sys.exit(main())
