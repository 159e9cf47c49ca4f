"""Every block of the README runs, or says why not; so do the blocks of the pages on your own data and parts.

```python blocks run in order in one temporary folder, each in its own process. A ```bash block runs when the line
before it is `<!-- run -->`. `<!-- skip: reason -->` passes over either; a bash block with neither mark is an error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fenced import Block, blocks, run
from tree import ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
BLOCKS = blocks(README)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the whole page, so that a block can use what the block before it made."""
    return tmp_path_factory.mktemp("readme")


def test_there_is_a_readme_with_blocks() -> None:
    assert README, "README.md is missing"
    assert {b.lang for b in BLOCKS if not b.skipped} == {"python", "bash"}, "README.md shows nothing that runs"


def test_every_mark_is_understood() -> None:
    assert not [f"README.md:{b.line}: {b.fault}" for b in BLOCKS if b.fault]


PAGES = [*sorted((ROOT / "docs").glob("add-*.md")), ROOT / "docs" / "data.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_on_your_own_data_or_parts_runs(page: Path, tmp_path: Path) -> None:
    found = blocks(page.read_text(encoding="utf-8"))
    assert found
    assert not [f"{page.name}:{b.line}: {b.fault}" for b in found if b.fault]
    for block in found:
        done = run(block, tmp_path)
        assert block.skipped or done.returncode == 0, f"{page.name}:{block.line}\n{done.stdout}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"line{b.line}-{b.lang}")
def test_the_block_runs(block: Block, folder: Path) -> None:
    if block.skipped:
        pytest.skip(block.skipped)
    done = run(block, folder)
    assert done.returncode == 0, f"README.md:{block.line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


PAGE = """
```python
open("made", "w").write("by python")
```
<!-- run -->
```bash
test "$(cat made)" = "by python"
```
<!-- skip: needs a network -->
```bash
exit 1
```
```bash
exit 1
```
<!-- skip: -->
```python
raise SystemExit(1)
```
```text
not code
```
"""


def test_the_runner_itself(tmp_path: Path) -> None:
    found = blocks(PAGE)
    assert [b.lang for b in found] == ["python", "bash", "bash", "bash", "python"]
    assert [bool(b.fault) for b in found] == [False, False, False, True, True]
    assert found[2].skipped == "needs a network"
    assert PAGE.splitlines()[found[1].line - 1] == "```bash"
    assert [run(b, tmp_path).returncode for b in found] == [0, 0, 1, 1, 1]
