"""Delete each gradient-control call of the library, one at a time, and see whether a test fails. Prints JSON.

    python bench/mutate_routes.py [--only losses/reach.py] [--list] [--timeout 120]

Every call in src/isochrone (except in core/gradient.py, which defines them) makes one mutant in a temporary copy of
`src`: `stop_gradient(x, why)` becomes `x`, `without_grad(fn, why)` becomes `fn()`, `frozen(m)` becomes `m`,
`frozen(m, "step")` becomes `m.step`, `with no_parameter_grad(m):` becomes `with contextlib.nullcontext():`. The tests
named for its folder in TESTS run against the copy until the first failure; before that they must pass on an unchanged
copy. Exits with 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("stop_gradient", "without_grad", "frozen", "no_parameter_grad")
# The tests of a folder or file of the library: the longest prefix decides; the most likely to fail comes first.
TESTS: dict[str, list[str]] = {
    "models/": ["tests/losses/test_stops.py", "tests/losses/test_contract.py", "tests/models"],
    "losses/": ["tests/losses/test_stops.py", "tests/losses/test_contract.py", "tests/losses"],
    "losses/smoothness.py": ["tests/losses/test_smoothness_terms.py", "tests/losses"],
    "losses/pixels.py": ["tests/losses/test_pixel_terms.py", "tests/losses"],
    "planners/": ["tests/planners/test_discrete_planning.py", "tests/planners"],
    "agents/": ["tests/agents"],
    "training/": ["tests/training/test_no_graph_is_kept.py", "tests/training/test_step.py"],
    "": ["tests"],
}


@dataclass(frozen=True)
class Mutant:
    """One call to delete: its place, its text and what replaces it."""

    file: str
    line: int
    what: str
    text: str
    begin: int  # offsets in the file's UTF-8 bytes
    end: int
    replacement: str


def name_of(call: ast.Call) -> str:
    """The function called, when it may be a tool: a bare name, or an attribute of `gradient`."""
    fn = call.func
    if isinstance(fn, ast.Name):
        return fn.id
    if isinstance(fn, ast.Attribute) and isinstance(fn.value, ast.Name) and fn.value.id == "gradient":
        return fn.attr
    return ""


def mutants(package: Path) -> Iterator[Mutant]:
    """Every deletion that can be made, in order of file and line."""
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        if file == "core/gradient.py":
            continue
        source = path.read_bytes()
        starts = [0]
        for row in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(row))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and name_of(node) in TOOLS and node.args:
                begin, end = _span(node, starts)
                first, last = _span(node.args[0], starts)
                replacement = _without(node, source[first:last].decode())
                text = " ".join(source[begin:end].decode().split())
                yield Mutant(file, node.lineno, name_of(node), text, begin, end, replacement)


def _without(call: ast.Call, argument: str) -> str:
    """The source text that has the effect of `call` without its gradient control."""
    tool = name_of(call)
    if tool == "no_parameter_grad":
        return '__import__("contextlib").nullcontext()'
    if tool == "without_grad":
        return f"({argument})()"
    if tool == "frozen" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
        return f"({argument}).{call.args[1].value}"
    return f"({argument})"


def _span(node: Any, starts: list[int]) -> tuple[int, int]:
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def tests_for(file: str) -> list[str]:
    """The test files that check a file of the library, in order."""
    prefix = max((p for p in TESTS if file.startswith(p)), key=len)
    found = [f for t in TESTS[prefix] for f in (sorted((ROOT / t).rglob("test_*.py")) or [ROOT / t])]
    return list(dict.fromkeys(f.relative_to(ROOT).as_posix() for f in found))


def run(src: Path, tests: list[str], timeout: float) -> tuple[bool, str]:
    """(did they all pass, the last line of pytest), on the package in `src`."""
    env = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-o", f"pythonpath={src} {ROOT / 'tests/support'}"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {timeout:.0f} s"
    failed = [row for row in done.stdout.splitlines() if row.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1, 2):  # 1 a test failed, 2 a test file did not import: anything else is ours
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0, (failed or done.stdout.splitlines()[-1:] or [""])[0][:200]


def trial(mutant: Mutant, src: Path, timeout: float) -> dict[str, Any]:
    """Put the mutant in, run its tests, take it out."""
    path = src / "isochrone" / mutant.file
    whole = path.read_bytes()
    began = time.perf_counter()
    try:
        path.write_bytes(whole[: mutant.begin] + mutant.replacement.encode() + whole[mutant.end :])
        passed, output = run(src, tests_for(mutant.file), timeout)
    finally:
        path.write_bytes(whole)
    location = {k: v for k, v in asdict(mutant).items() if k in ("file", "line", "what", "text")}
    return {**location, "killed": not passed, "by": "" if passed else output, "seconds": time.perf_counter() - began}


def main() -> int:
    """Command line; exits with 1 when a mutant survives, 2 when the tests fail without any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="files that begin so, e.g. losses/reach.py")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one mutant")
    parser.add_argument("--list", action="store_true", help="name the mutants, run nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder)
        shutil.copytree(ROOT / "src/isochrone", src / "isochrone", ignore=shutil.ignore_patterns("__pycache__"))
        found = [m for m in mutants(src / "isochrone") if m.file.startswith(args.only)]
        if args.list:
            print(json.dumps([{"file": m.file, "line": m.line, "text": m.text} for m in found], indent=2))
            return 0
        for tests in {tuple(tests_for(m.file)) for m in found}:
            passed, output = run(src, list(tests), args.timeout)
            if not passed:
                print(f"the tests fail without any mutant: {output}", file=sys.stderr)
                return 2
        results = []
        for n, mutant in enumerate(found, 1):
            results.append(trial(mutant, src, args.timeout))
            mark = "killed  " if results[-1]["killed"] else "SURVIVED"
            print(f"{n}/{len(found)} {mark} {mutant.file}:{mutant.line} {mutant.text}", file=sys.stderr)
    survived = [r for r in results if not r["killed"]]
    counts = {what: sum(m.what == what for m in found) for what in TOOLS}
    summary = {"mutants": len(found), "killed": len(found) - len(survived), "kinds": counts, "survived": survived}
    print(json.dumps({**summary, "seconds": sum(r["seconds"] for r in results), "all": results}, indent=2))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
