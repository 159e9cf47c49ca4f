"""What is written down is true of this tree: links lead somewhere, and nothing names the machine it was written on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tree import ROOT

SKIP = {
    ".git",
    ".venv",
    "runs",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "htmlcov",
    "build",
    "dist",
}
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".html", ".css", ".js", ".sh", ".map", ""}
MACHINE = re.compile(r"(?<![\w.])/(?:work|root|opt|home|mnt)/[\w.-]+")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def files() -> list[Path]:
    """Every text file of the project that a commit would hold."""
    found = (p for p in ROOT.rglob("*") if not SKIP & set(p.relative_to(ROOT).parts) and p.is_file())
    return sorted(p for p in found if p.suffix in TEXT and p.name != ".coverage" and p.stat().st_size < 2_000_000)


def anchors(page: str) -> set[str]:
    """The anchors that a Markdown page's headings make."""
    heads = re.findall(r"^#+\s+(.*)$", re.sub(r"```.*?```", "", page, flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page to a file or heading that is not there. Addresses on the web are not followed."""
    out = []
    for found in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.S)):
        target = found[0] or found[1]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists():
            out.append(f"{page.name}: {target} is not there")
        elif anchor and there.suffix == ".md" and anchor not in anchors(text if there == page else there.read_text()):
            out.append(f"{page.name}: {target} has no such heading")
    return out


def test_links_lead_somewhere() -> None:
    pages = [path for path in files() if path.suffix == ".md"]
    assert [line for page in pages for line in broken(page, page.read_text(encoding="utf-8"))] == []


def test_no_page_refers_to_what_is_not_in_the_repository() -> None:
    found = []
    for path in files():
        if path.suffix in (".py", ".md") and "rules" not in path.parts:
            text = path.read_text(encoding="utf-8")
            found += [
                f"{path.relative_to(ROOT)}: {m[0]}" for m in re.finditer(r"seeds/\d+|spec section \d|spec/\w+", text)
            ]
    assert found == []


def test_no_file_names_this_machine() -> None:
    found = []
    for path in files():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


PAGES = "README CONTRIBUTING CHANGELOG docs/concepts docs/background docs/evidence docs/python docs/shapes".split()


@pytest.mark.parametrize("name", [*(f"{page}.md" for page in PAGES), "LICENSE", "CITATION.cff"])
def test_the_page_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_the_checkers_see(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for name in ("page.md", "other.md"):
        (tmp_path / name).write_text("# A heading\n")
    assert broken(page, "[x](nowhere.md)")
    assert broken(page, "# A\n[x](#b)")
    assert not broken(page, "# A b\n[x](#a-b) [y](other.md#a-heading) [z](https://example.org/nowhere.md)")
    here = "/".join(["", "work", "main"])
    assert MACHINE.search(f"see {here}/src")
    assert not MACHINE.search("a/work/b and src/work/x")
