"""isochrone doctor: check this machine and installation."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from isochrone.cli.args import Parser, run_folder, show_json, show_table

NEEDED = (
    "torch",
    "numpy",
    "gymnasium",
    "safetensors",
    "filelock",
    "rich",
    "matplotlib",
    "h5py",
    "jaxtyping",
    "lightning-fabric",
    "msgspec",
)
EXTRA = {
    "tensorboard": ("TensorBoard files in the run folder", "log"),
    "pyarrow": ("LeRobot datasets", "lerobot"),
    "av": ("video files", "video"),
    "pygame": ("Gymnasium's classic control environments", "gym"),
    "dm_control": ("DeepMind Control tasks", "dmc"),
}
Check = tuple[str, str, str]
"""What is checked; 'ok', 'note', 'missing' or 'damaged'; a sentence."""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "doctor",
        ["[--json]", "RUN [--json] [--trust]"],
        "Checks Python, packages, processor, memory, disk and GPU, and takes one training step of the recipe 'tiny'; "
        "or every file of a run: its checkpoints, rows of the replay, metrics and results.\n"
        "Exit code 1 when something that is needed is missing or damaged.",
        "  isochrone doctor\n  isochrone doctor runs/a",
    )
    out.add_argument("run", nargs="*", metavar="RUN", help="run folder")
    out.add_trust()
    out.add_json()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0 when nothing that is needed is missing or damaged."""
    if args.run:
        checks = list(_run_folder(run_folder(args), args.trust))
    else:
        checks = [*_python(), *_packages(), *_machine(), *_training_step()]
    if args.json:
        show_json([{"what": what, "state": state, "says": text} for what, state, text in checks])
    else:
        show_table((state, what, text) for what, state, text in checks)
    return int(any(state in ("missing", "damaged") for _, state, _ in checks))


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield "python", "ok" if supported else "missing", version if supported else f"{version}: needed is 3.11 to 3.13"


def _packages() -> Iterator[Check]:
    for name in NEEDED:
        try:
            yield name, "ok", metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "missing", f"pip install {name}"
    for name, (feature, extra) in EXTRA.items():
        try:
            yield name, "ok", metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "note", f"not installed; {feature} need it: pip install 'isochrone[{extra}]'"


def _machine() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "processor", "ok", f"{cores} cores; a run uses train.threads of them (default 1)"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        yield "memory", "ok" if memory >= 3 else "note", f"{memory:.1f} GB; the default recipe needs about 3"
    free = shutil.disk_usage(".").free / 1e9
    yield "disk", "ok" if free >= 2 else "note", f"{free:.1f} GB free here; a run of the default recipe takes about 1"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    yield "gpu", "ok" if gpu else "note", gpu or "none that torch can use; everything runs on the CPU"


def _training_step() -> Iterator[Check]:
    """Loss and gradient of a new 'tiny' on one batch that was just recorded."""
    from isochrone.core.errors import UserError
    from isochrone.training.device import generator
    from isochrone.workflows import dataset, factory

    logging.getLogger("isochrone").setLevel(logging.WARNING)
    try:
        config = factory.make_config("tiny", {"data.rows": "20", "data.num_envs": "4"})
        replay = dataset.fill_replay(config, None)
        objective = factory.make_objective(config, factory.make_learner(config, replay.spec))
        rng = generator(0, "one step")
        loss, _ = objective(replay.sample(4, config.train.length, rng), rng)
        loss.backward()
    except UserError as error:
        yield "training step", "missing", str(error)
    else:
        yield "training step", "ok", f"the loss of a new model is {loss.item():.4g}"


def _run_folder(path: Path, trust: bool) -> Iterator[Check]:
    """Every file of a run, read and verified; nothing is changed."""
    from isochrone.core import gate
    from isochrone.core.errors import UserError
    from isochrone.data.episode import read_spec
    from isochrone.training import checkpoint
    from isochrone.training.run import Run
    from isochrone.workflows import dataset
    from isochrone.workflows.loaded_run import SPEC, read_config

    run = Run.open(path, write=False)
    parts: dict[str, Callable[[], str]] = {
        "config.json": lambda: f"recipe {read_config(run, trust).recipe}",
        SPEC: lambda: str(read_spec(path / SPEC).obs),
        "versions.json": lambda: f"resumed {len(run.versions().get('resumed', []))} times",
        "metrics.jsonl": lambda: f"{len(run.rows())} rows",
        "results.json": lambda: f"{len(run.results().get('results', {}))} numbers",
        "replay": lambda: dataset.open_replay(path / "replay", write=False).describe(),
    }
    for name, read in parts.items():
        try:
            yield (name, "ok", read()) if gate.exists(path / name) else (name, "note", "there is none")
        except UserError as error:
            yield name, "damaged", str(error)
    for step in checkpoint.folders(run.checkpoints):
        try:
            checkpoint.verify(run.checkpoints / f"{step:08d}")
        except UserError as error:
            yield f"checkpoint {step}", "damaged", str(error)
        else:
            yield f"checkpoint {step}", "ok", "every file is as its manifest says"
