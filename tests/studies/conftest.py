"""A miniature study in a temporary folder, without results and with."""

import json
from pathlib import Path

import pytest
from ministudy import CLAIMS, STUDY, VALUES, store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "studies" / "mini"
    folder.mkdir(parents=True)
    (folder / "study.py").write_text(STUDY)
    (folder / "claims.json").write_text(json.dumps({"claims": CLAIMS}))
    (folder / "own.txt").write_text("....\n.#..\n....\n")
    return tmp_path


@pytest.fixture
def measured(root: Path) -> Path:
    for seed, numbers in enumerate(VALUES):
        store(root, f"a-{seed}", *numbers)
    return root
