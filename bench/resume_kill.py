"""Kill a training process at random instants, resume it each time, and compare its weights with an undisturbed run's.

    python bench/resume_kill.py tiny --kills 20 --out DIR
    python bench/resume_kill.py zhp --extra "--train.steps 2000 --train.save-every 50"

Both commands are templates, so any trainer that keeps our checkpoint folder can be tried. Prints one JSON object; exits
with 1 when the weights differ or fewer kills than asked landed on a living process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from isochrone.training import checkpoint

POLL = 0.02  # seconds


def started(run: Path) -> int:
    """How often training has begun in this folder: 1 with the first checkpoint, 1 more with each resume."""
    if not checkpoint.steps(run / "checkpoints"):
        return 0
    try:
        return 1 + len(json.loads((run / "versions.json").read_text()).get("resumed", []))
    except (OSError, ValueError):
        return 1


def launch(command: str, log: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, its output appended to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(shlex.split(command), stdout=out, stderr=out, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """SIGKILL to the process and its children; True when it was still alive."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def wait_until_started(process: subprocess.Popen[bytes], run: Path, before: int) -> None:
    """Return when training has begun once more than `before` times, or the process is gone."""
    while process.poll() is None and started(run) <= before:
        time.sleep(POLL)


def undisturbed(command: str, run: Path, log: Path) -> dict[str, float]:
    """Run to the end; seconds until training began, and of training."""
    began = time.monotonic()
    process = launch(command, log)
    wait_until_started(process, run, 0)
    ready = time.monotonic()
    if process.wait() != 0:
        sys.exit(f"the undisturbed run failed with {process.returncode}; see {log}")
    return {"startup_s": ready - began, "training_s": time.monotonic() - ready}


def disturbed(args: argparse.Namespace, run: Path, log: Path, times: dict[str, float]) -> list[dict[str, Any]]:
    """Start or resume `args.kills` times, each ended by SIGKILL; what each kill met."""
    draw, met = random.Random(args.seed), []
    # so that, on average, the last kill falls at three quarters of the training
    span = 1.5 * times["training_s"] / args.kills
    while len(met) < args.kills:
        first, before = not (run / "config.json").exists(), started(run)
        process = launch((args.train if first else args.resume).format(recipe=args.recipe, run=run), log)
        # one kill in five falls into the start-up, where folders are made and checkpoints are read
        early = draw.random() < 0.2
        if not early:
            wait_until_started(process, run, before)
        delay = draw.uniform(0.0, times["startup_s"] if early else span)
        time.sleep(delay)
        if not kill(process):
            if process.returncode != 0:
                sys.exit(f"a run failed by itself with {process.returncode}; see {log}")
            break  # finished before the kill: no more to disturb
        newest = checkpoint.latest(run / "checkpoints")
        step = int(newest.name) if newest else None
        met.append({"phase": "start" if early else "training", "delay_s": round(delay, 3), "checkpoint": step})
    return met


def compare(whole: Path, cut: Path) -> dict[str, Any]:
    """Are the newest weights the same bits, and if not, how far apart."""
    folders = [checkpoint.latest(run / "checkpoints") for run in (whole, cut)]
    if None in folders:
        return {"equal": False, "why": "no checkpoint"}
    paths = [f / checkpoint.FILES[0] for f in folders if f is not None]
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]
    a, b = (load_file(p) for p in paths)
    same = a.keys() == b.keys()
    far = (
        max((float((a[k].double() - b[k].double()).abs().max()) for k in a if a[k].numel()), default=0.0)
        if same
        else None
    )
    steps = [int(p.parent.name) for p in paths]
    equal = digests[0] == digests[1] and steps[0] == steps[1]
    return {"equal": equal, "largest_difference": far, "steps": steps, "sha256": digests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the two runs; default: a temporary one")
    parser.add_argument("--train", default="isochrone train {recipe} --run {run}", help="command that starts a run")
    parser.add_argument("--resume", default="isochrone train --resume {run}", help="command that continues a run")
    parser.add_argument("--extra", default="", help="appended to the start command: options of the recipe")
    args = parser.parse_args()
    args.train = f"{args.train} {args.extra}".strip()
    out = args.out or Path(tempfile.mkdtemp(prefix="resume_kill_"))
    out.mkdir(parents=True, exist_ok=True)
    whole, cut, log = out / "whole", out / "cut", out / "log.txt"
    times = undisturbed(args.train.format(recipe=args.recipe, run=whole), whole, log)
    met = disturbed(args, cut, log, times)
    last = launch(
        (args.resume if (cut / "config.json").exists() else args.train).format(recipe=args.recipe, run=cut), log
    )
    if last.wait() != 0:
        sys.exit(f"the last resume failed with {last.returncode}; see {log}")
    results = {
        "recipe": args.recipe,
        "kills": len(met),
        "asked": args.kills,
        **times,
        **compare(whole, cut),
        "met": met,
    }
    sys.stdout.write(json.dumps({**results, "torch": torch.__version__}, indent=1) + "\n")
    sys.exit(0 if results["equal"] and len(met) == args.kills else 1)


if __name__ == "__main__":
    main()
