"""No file over 300 lines, no function over 60; the tests and the benchmarks live by the same rule."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tree import ROOT

FILE, FUNCTION = 300, 60
FILES = sorted(path for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.py"))


def too_long(text: str) -> list[str]:
    """One line per file or function over its limit. A function counts from `def` to its last line."""
    lines = len(text.splitlines())
    out = [f"{lines} lines, the limit is {FILE}"] if lines > FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION:
                out.append(f"{node.name} has {length} lines, the limit is {FUNCTION}")
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_sizes(path: Path) -> None:
    assert not too_long(path.read_text(encoding="utf-8"))


def test_the_checker_sees() -> None:
    body = "    x = 1\n"
    assert too_long("def fits():\n" + body * 59) == []
    assert too_long("def long():\n" + body * 60) == ["long has 61 lines, the limit is 60"]
    assert too_long("class A:\n    async def long():\n" + ("    " + body) * 60)
    assert too_long("x = 1\n" * 300) == []
    assert too_long("x = 1\n" * 301) == ["301 lines, the limit is 300"]
