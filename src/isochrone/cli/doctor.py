"""isochrone doctor: can this machine run it, and what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from isochrone.cli.words import asks_help, show_json, split

USAGE = """isochrone doctor [--json]

Checks Python, packages, processor, memory, disk and GPU, and takes one training step of the recipe 'tiny'.
Exit code 1 when something that is needed is missing.
"""
NEEDED = ("torch", "numpy", "gymnasium", "safetensors", "rich", "matplotlib", "h5py", "jaxtyping", "lightning-fabric")
EXTRA = {
    "tensorboard": ("TensorBoard files in the run folder", "log"),
    "av": ("video files", "video"),
    "pygame": ("Gymnasium's classic control, which draws with it,", "gym"),
    "dm_control": ("DeepMind Control tasks", "dmc"),
}


def command(words: list[str]) -> int:
    """0 when everything needed is there."""
    if asks_help(words):
        print(USAGE, end="")
        return 0
    asked = split(words)
    asked.only()
    checks = [*_python(), *_packages(), *_machine(), *_step()]
    if "json" in asked.switches:
        show_json([{"what": what, "state": state, "says": says} for what, state, says in checks])
    else:
        for what, state, says in checks:
            print(f"{state:<8}{what:<18}{says}")
    return int(any(state == "missing" for _, state, _ in checks))


Check = tuple[str, str, str]
"""What, 'ok', 'note' or 'missing', and a sentence."""


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield "python", "ok" if fits else "missing", version if fits else f"{version}: isochrone needs 3.11 to 3.13"


def _packages() -> Iterator[Check]:
    for name in NEEDED:
        try:
            yield name, "ok", metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "missing", f"pip install {name}"
    for name, (what, extra) in EXTRA.items():
        try:
            yield name, "ok", metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "note", f"not installed; {what} need it: pip install 'isochrone[{extra}]'"


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


def _step() -> Iterator[Check]:
    from isochrone.core.errors import UserError
    from isochrone.workflows.loaded_run import one_step

    try:
        yield "training step", "ok", f"the loss of a new model is {one_step('tiny'):.4g}"
    except UserError as error:
        yield "training step", "missing", str(error)
