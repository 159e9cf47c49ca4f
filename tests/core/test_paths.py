"""Paths that a user wrote are expanded, or refused with what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isochrone.core.errors import UserError
from isochrone.core.paths import check_regular, full_path


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/there")
    assert full_path("~/a", "--run") == Path("/there/a")
    assert full_path("~", "--run") == Path("/there")
    assert full_path("./~", "--run") == Path("~")
    assert full_path("a~b=c", "--run") == Path("a~b=c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--run '': give the path"),
        ("a\0b", "give the path"),
        ("~nobody-of-this-name/x", "there is no user 'nobody-of-this-name'"),
        ("x" * 300, "the name is too long"),
        ("d/" * 5000, "the name is too long"),
    ],
    ids=["empty", "zero byte", "user", "long name", "long path"],
)
def test_what_names_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match="--run") as caught:
        full_path(text, "--run")
    assert words in str(caught.value)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="circle"):
        full_path(tmp_path / "loop" / "x", "--run")


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="map file .* is a pipe or a device"):
            check_regular(path, "map file")
    check_regular(tmp_path, "map file")
    check_regular(tmp_path / "missing", "map file")
