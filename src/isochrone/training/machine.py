"""What this machine has: memory, and room on its disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may take (versions 2 and 1)."""


def memory() -> int | None:
    """Bytes that this process can have at most: of the machine, its container or its limit; None if unknown."""
    limits = [_cgroup(Path(path)) for path in CGROUPS]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if resource is not None:
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits.append(None if soft == resource.RLIM_INFINITY else soft)
    return min((limit for limit in limits if limit), default=None)


def _cgroup(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or 'max'
        return None


def free_disk(path: Path) -> int | None:
    """Bytes that can still be written at `path`, which need not exist yet; None if unknown."""
    folder = next((p for p in (path, *path.absolute().parents) if p.is_dir()), None)
    try:
        return None if folder is None else shutil.disk_usage(folder).free
    except OSError:
        return None
