"""The project's own source, parsed once: what the tests of the repository's rules look at."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "isochrone"


@dataclass(frozen=True)
class Source:
    """One Python file. `name` is its path below the package ('core/gradient.py'), `module` its dotted name."""

    name: str
    module: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text)

    @property
    def layer(self) -> str:
        """'core' for core/gradient.py, 'cli' for __main__.py, '' for the package's own __init__."""
        head = self.name.split("/")[0].removesuffix(".py")
        return {"__init__": "", "__main__": "cli"}.get(head, head)


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def source(name: str, text: str) -> Source:
    """A file that exists only in a test."""
    module = ".".join(["isochrone", *name.removesuffix(".py").split("/")]).removesuffix(".__init__")
    return Source(name, module, text)


@cache
def library() -> tuple[Source, ...]:
    """Every Python file of the package."""
    return tuple(
        source(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def dotted(node: ast.expr) -> str:
    """'torch.random.seed' for that expression; calls and subscripts inside are skipped; '' if it has no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    return ""


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call below `tree` with the dotted name of what is called."""
    return [(dotted(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
