"""One cell of a study: train as `isochrone train` does, evaluate, store one small JSON.

The runner starts `python -m studies.harness.cell STUDY CELL`. A cell that was killed continues from its newest
checkpoint in runs/study-STUDY/CELL; once its result is stored, the replay there is deleted.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from isochrone.cli import log_to_stderr
from isochrone.core.config import to_dict
from isochrone.core.errors import UserError
from isochrone.data.replay import ReplayBuffer
from isochrone.evals import suite
from isochrone.evals.metric import BASELINES
from isochrone.evals.suite import Results
from isochrone.recipes.schema import Config
from isochrone.training.checkpoint import config_hash
from isochrone.training.console import Console
from isochrone.training.run import Run
from isochrone.training.sinks import open_sinks
from isochrone.workflows import dataset, factory, train
from isochrone.workflows.evaluate import evaluate as evaluate_run
from isochrone.workflows.loaded_run import LoadedRun, load
from studies.harness import result
from studies.harness.study import BASELINE, find_root
from studies.harness.study import load as load_study


def run_folder(root: Path, study: str, cell: str) -> Path:
    """Where a cell trains."""
    return root / "runs" / f"study-{study}" / cell


def measure(name: str, cell_name: str, root: Path) -> str:
    """Train or resume, evaluate and store the cell; the signal that stopped it early, or ''."""
    study = load_study(name, root)
    cell = study.cell(cell_name)
    config, folder = study.config(cell), run_folder(root, name, cell_name)
    with _open(config, folder) as training:
        run = training.run
        start = time.perf_counter()
        replay = dataset.fill_replay(config, run.path / "replay")
        seconds = {"collect": time.perf_counter() - start}
        values, messages = check_forced(config, replay) if config.allow_dead_losses else ({}, {})
        del replay
        stopped = _train(training)
    if stopped:
        return stopped
    start = time.perf_counter()
    metrics, pairs = evaluate(load(folder))
    seconds |= {"train": training_seconds(run), "evaluate": time.perf_counter() - start}
    values |= metrics | {f"seconds.{kind}": {"value": number} for kind, number in seconds.items()}
    curve = learning_curve(run)
    values |= late_return(curve)
    more = {"pairs": pairs, "messages": messages} | ({"curve": curve} if curve else {})
    result.write(result.path_of(root, name, cell_name), result.pack(name, study, cell, root, values, more))
    shutil.rmtree(folder / "replay", ignore_errors=True)
    return ""


def _open(config: Config, folder: Path) -> train.Training:
    """The cell's run folder: resumed if it has the same config, else started again."""
    if (folder / "config.json").exists():
        with Run.open(folder) as old:  # takes the lock: a folder in use is refused here
            same = old.config_hash == config_hash(to_dict(config)) and _same_drawing(config, folder)
            if not same:
                shutil.rmtree(folder)
        if same:
            return train.resume(folder)
    return train.create_run(config, folder)


def _same_drawing(config: Config, folder: Path) -> bool:
    """Whether the map file is still the one that a run began with."""
    kept = folder / factory.KEPT
    return result.drawing(Path(), config) == (result.drawing_hash(kept) if kept.exists() else None)


def _train(training: train.Training) -> str:
    run, steps = training.run, training.config.train.steps
    console = Console(Console.Config(), run, steps)
    sinks = open_sinks(["jsonl"], run, steps)
    try:
        return train.fit_run(training, [*sinks, console], console.tick).signal
    finally:
        for sink in (*sinks, console):
            sink.close()


def training_seconds(run: Run) -> float:
    """Wall seconds of all steps, from the rates in metrics.jsonl, so that interruptions do not count."""
    seconds, last = 0.0, 0
    for row in run.rows():
        if row.get("steps_per_s"):
            seconds += (row["step"] - last) / row["steps_per_s"]
            last = row["step"]
    return seconds


def learning_curve(run: Run) -> list[list[float]]:
    """[[frames collected so far, mean episode return]] of a run that collects: of the episodes played without noise
    every `train.eval_every` steps, else of those collected since the last entry."""
    rows = run.rows()
    frames = {row["step"]: row["collect/frames"] for row in rows if "collect/frames" in row}
    key = "eval/return" if any("eval/return" in row for row in rows) else "collect/return"
    returns = {row["step"]: result.short(row[key]) for row in rows if key in row}
    return [[frames[max((s for s in frames if s <= step), default=min(frames))], r] for step, r in returns.items()]


def late_return(curve: Sequence[Sequence[float]]) -> Results:
    """'learning_curve.late': mean return over the last quarter of the curve; its baseline is the first quarter's."""
    if len(curve) < 4:
        return {}
    returns, quarter = [entry[1] for entry in curve], len(curve) // 4
    return {"learning_curve.late": {"value": fmean(returns[-quarter:]), BASELINE: fmean(returns[:quarter])}}


def check_forced(config: Config, replay: ReplayBuffer) -> tuple[Results, dict[str, Any]]:
    """For a cell with dead losses (a negative control): the error without `allow_dead_losses`, and every fault.

    Metrics: 'control.refused' (1: an error without it) and 'control.faulty.LOSS' (1: the liveness check calls the
    loss an identity, a constant, ...). Messages: 'refused' and 'liveness'.
    """
    refused = ""
    try:
        total = train.build_all(replace(config, allow_dead_losses=False), replay.spec)[1]
        train.check_losses(replace(config, allow_dead_losses=False), total, replay)
    except UserError as error:
        refused = str(error)
    total = train.build_all(config, replay.spec)[1]
    faults = train.probe_losses(config, total, replay).faults
    values: Results = {"control.refused": {"value": float(bool(refused))}}
    for name in total.losses:
        values[f"control.faulty.{name}"] = {"value": float(any(fault.startswith(f"'{name}' is ") for fault in faults))}
    return values, {"refused": refused, "liveness": faults}


def evaluate(trained: LoadedRun) -> tuple[Results, dict[str, dict[str, int]]]:
    """(results, counts of pairs that both, one or neither of two planners solved)."""
    results, arrays = evaluate_run(trained)
    suite.write_results(trained.run.path / "results.json", results, {"step": trained.step})
    return results, paired(arrays)


def paired(arrays: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """{'a|b': {'both', 'first', 'second', 'neither'}}: pairs solved by a and b, enough for paired statistics."""
    if "planning.success" not in arrays:
        return {}
    rows = zip(arrays["planning.agents"], arrays["planning.success"], strict=True)
    solved = {str(name): np.asarray(row, bool) for name, row in rows}
    out = {}
    for a, b in combinations([n for n in solved if n not in BASELINES], 2):
        x, y = solved[a], solved[b]
        counts = {"both": x & y, "first": x & ~y, "second": ~x & y, "neither": ~x & ~y}
        out[f"{a}|{b}"] = {kind: int(where.sum()) for kind, where in counts.items()}
    return out


def exit_with_parent(every: float = 1.0) -> None:
    """Send SIGTERM to this process once its parent has ended, so that a killed runner leaves nothing running.

    Args:
        every: seconds between two checks.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 stored, 2 invalid input, 130 or 143 stopped with a checkpoint."""
    name, cell = argv
    root = find_root()
    os.chdir(root)  # file names in a study are relative to it
    exit_with_parent()
    log_to_stderr()
    try:
        stopped = measure(name, cell, Path("."))
    except UserError as error:
        print(f"isochrone: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return {"": 0, "SIGINT": 130}.get(stopped, 143)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
