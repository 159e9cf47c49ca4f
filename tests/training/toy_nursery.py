"""A process that has everything imported and forks one training process per line of its input.

An order is {"run", "steps", "pause" (seconds per step), "kill_after" (seconds until a SIGKILL; absent: none)}. Answers
{"pid"} at once and {"end"} (exit status, or minus the signal) when the child is gone. So a test can kill many training
processes without paying the imports each time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import lightning_fabric  # noqa: E402, F401
import torch  # noqa: E402
import toy  # noqa: E402

from isochrone.core.errors import UserError  # noqa: E402
from isochrone.training.config import TrainConfig  # noqa: E402
from isochrone.training.loop import fit  # noqa: E402
from isochrone.training.optim import OptimConfig  # noqa: E402
from isochrone.training.run import Run  # noqa: E402
from isochrone.training.sinks import Jsonl  # noqa: E402


def train(path: str, steps: int, pause: float) -> int:
    """One training process: continues the run if there is one, else starts it. Its exit status."""
    settings = TrainConfig(steps=steps, log_every=10, save_every=7, accelerator="cpu")
    try:
        known = (Path(path) / "config.json").exists()
        run = Run.open(path) if known else Run.create(path, {"steps": steps})
        reader, sink = toy.Reader(), Jsonl(Jsonl.Config(), run)
        done = fit(
            toy.ToyObjective(),
            reader,
            settings,
            {"model": OptimConfig(lr=1e-2, schedule="cosine", warmup=5)},
            run,
            [sink],
            stateful={"reader": reader},
            progress=lambda _: time.sleep(pause),
        )
    except UserError as error:
        sys.stderr.write(str(error))
        return 2
    return 0 if done.done else 3


def main() -> None:
    torch.set_num_threads(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            os._exit(train(order["run"], order["steps"], order.get("pause", 0.0)))
        sys.stdout.write(json.dumps({"pid": pid}) + "\n")
        sys.stdout.flush()
        if "kill_after" in order:
            time.sleep(order["kill_after"])
            os.kill(pid, signal.SIGKILL)  # not yet waited for, so the number is still this child's
        end = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(json.dumps({"end": end}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
