"""Fenced blocks of a Markdown page, and how to run them: what is documented is executed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tree import ROOT

SECONDS = 180
BLOCK = re.compile(
    r"(?:^<!--[ ]*(?P<mark>[^\n]*?)[ ]*-->\n)?^```(?P<lang>\w*)[^\n]*\n(?P<code>.*?)^```[ ]*$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its code, its line in the page and what the comment before it says."""

    lang: str
    code: str
    line: int
    mark: str

    @property
    def skipped(self) -> str:
        """The reason for passing over it, or ''."""
        return self.mark.removeprefix("skip:").strip() if self.mark.startswith("skip:") else ""

    @property
    def fault(self) -> str:
        """What is wrong with its mark, or ''."""
        if self.mark.startswith("skip") and not self.skipped:
            return "skip needs a reason: <!-- skip: reason -->"
        if self.lang == "bash" and not self.skipped and self.mark != "run":
            return "a bash block needs <!-- run --> or <!-- skip: reason --> on the line before it"
        return ""


def blocks(page: str) -> list[Block]:
    """The Python and bash blocks of a page, in order."""
    found = [
        Block(m["lang"], m["code"], page.count("\n", 0, m.start("code")), m["mark"] or "") for m in BLOCK.finditer(page)
    ]
    return [b for b in found if b.lang in ("python", "bash")]


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block in `folder`, with the working tree's isochrone as module and as command."""
    shim = folder / ".bin" / "isochrone"
    if not shim.exists():
        shim.parent.mkdir(parents=True)
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from isochrone.cli import main; main()" "$@"\n')
        shim.chmod(0o755)
    path = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PATH": path, "MPLBACKEND": "Agg"}
    command = (
        [sys.executable, "-c", block.code] if block.lang == "python" else ["bash", "-euo", "pipefail", "-c", block.code]
    )
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS)
