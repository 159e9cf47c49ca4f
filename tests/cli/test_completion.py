"""The completion script of bash, run in bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from isochrone.cli.completion import SHELLS, script

TRY = """
source "$0"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_isochrone
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "isochrone.bash"
    path.write_text(script("bash"))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "suggested", "others"),
    [
        (["tr"], {"train"}, {"eval"}),
        ([""], {"train", "eval", "plan", "report", "routes", "data", "list", "doctor", "completion"}, {"tiny"}),
        (["train", "ti"], {"tiny"}, {"zhp"}),
        (["train", "zhp", "--train.st"], {"--train.steps"}, {"--train.seed"}),
        (["train", "zhp", "--res"], {"--resume"}, {"--run"}),
        (["data", "va"], {"validate"}, {"collect"}),
        (["list", "re"], {"recipe"}, {"map"}),
        (["completion", ""], set(SHELLS), {"--json"}),
        (["eval", "--eval.pa"], {"--eval.pairs"}, {"--eval.seed"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",  # sets have no order
)
def test_bash_completes_words(file: Path, words: list[str], suggested: set[str], others: set[str]) -> None:
    command = ["bash", "--norc", "-c", TRY, file, "isochrone", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=file.parent)
    assert (done.returncode, done.stderr) == (0, "")
    offered = set(done.stdout.split())
    assert suggested <= offered
    assert not others & offered
