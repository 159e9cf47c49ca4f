"""Wheel and sdist are built, hold what they should, and the installed wheel works without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tree import ROOT

pytestmark = pytest.mark.slow
DATA = ("isochrone/py.typed", "isochrone/evals/templates/report.html")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fresh sdist, and of the wheel that is built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def site(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, without its dependencies: those of the running Python are used."""
    folder = tmp_path_factory.mktemp("site")
    wheel = next(dist.glob("*.whl"))
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def names(archive: Path) -> set[str]:
    """The files of a wheel, or of an sdist without its top folder."""
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as tar:
        return {member.name.partition("/")[2] for member in tar.getmembers()}


def test_the_wheel_holds_the_package_and_its_data_alone(dist: Path) -> None:
    files = names(next(dist.glob("*.whl")))
    assert set(DATA) <= files
    assert {name.split("/")[0].split("-")[0] for name in files} == {"isochrone"}
    assert not [name for name in files if "/studies/" in name or name.startswith("isochrone/tests")]


def test_the_sdist_holds_what_its_tests_need(dist: Path) -> None:
    files = names(next(dist.glob("*.tar.gz")))
    for needed in ("README.md", "Makefile", "constraints.txt", "docs/concepts.md", "tests/conftest.py"):
        assert needed in files
    assert [name for name in files if name.startswith("studies/") and name.endswith("study.py")]


def run(site: Path, code: str, folder: Path) -> str:
    """Run code that sees the installed wheel first, outside the repository."""
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_installed_wheel_trains_and_reports(site: Path, tmp_path: Path) -> None:
    code = (
        "import isochrone; from isochrone.cli import run; print(isochrone.__file__)\n"
        "words = 'train tiny --run r --train.steps 12 --data.num-envs 8 --data.rows 60 --eval.pairs 4'\n"
        "raise SystemExit(run([*words.split(), '--then', 'eval,report']))"
    )
    assert run(site, code, tmp_path).startswith(str(site))
    assert (tmp_path / "r" / "report.html").stat().st_size > 100_000
