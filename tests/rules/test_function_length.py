"""No function of the library, its tests, studies or benchmarks is longer than 60 lines."""

from __future__ import annotations

import ast

from tree import ROOT

LIMIT = 60


def long_functions(text: str) -> list[str]:
    """One line per function over the limit. A function counts from `def` to its last line."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LIMIT:
                lines.append(f"{node.name} has {length} lines, the limit is {LIMIT}")
    return lines


def test_functions_are_short() -> None:
    paths = (path for folder in ("src", "tests", "studies", "bench") for path in sorted((ROOT / folder).rglob("*.py")))
    found = [f"{p.relative_to(ROOT)}: {line}" for p in paths for line in long_functions(p.read_text(encoding="utf-8"))]
    assert found == []


def test_the_checker_counts_lines() -> None:
    body = "    x = 1\n"
    assert long_functions("def fits():\n" + body * 59) == []
    assert long_functions("def long():\n" + body * 60) == ["long has 61 lines, the limit is 60"]
    assert long_functions("class A:\n    async def long():\n" + ("    " + body) * 60)
