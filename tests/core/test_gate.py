"""Files of a run: only regular files of a bounded size are opened, and JSON has its declared shape."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from isochrone.core import files, gate
from isochrone.core.errors import UserError, printable


class Point(gate.Strict):
    x: float
    name: str = ""


def test_json_of_the_declared_shape_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": 1, "name": "here"}')
    assert gate.read_json(path, Point) == Point(1.0, "here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "got `null`"),
        ("[]", "got `array`"),
        ("{}", "missing required field `x`"),
        ('{"x": "1"}', "got `str`"),
        ('{"x": 1, "y": 2}', "unknown field `y`"),
        ('{"x": NaN}', "malformed"),
        ('{"x": 1e999}', "out of range"),
        ('{"x": 1', "truncated"),
        ("", "truncated"),
        ('{"x": 1, "name": "\udcff"}', "damaged"),
    ],
)
def test_json_of_another_shape_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="a.json is damaged: ") as error:
        gate.read_json(path, Point)
    assert words in str(error.value)


def test_nesting_and_numbers_are_bounded() -> None:
    for text in ("[" * 10**5, "[" * 200 + "]" * 200, '{"a":' * 2000 + "1" + "}" * 2000):
        with pytest.raises(UserError, match="nested too deeply|truncated"):
            gate.decode(text.encode(), list | dict, "it")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a number of 71 bits"):
        gate.decode(str(2**70).encode(), int, "it")


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good.json"
    good.write_text("{}")
    (tmp_path / "link").symlink_to(good)
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as held:
        held.bind("socket")
        for name, words in (
            ("link", "is a link"),
            ("lost", "is a link"),
            ("pipe", "is a pipe, not a file"),
            ("folder", "is a folder, not a file"),
            ("socket", "is a socket, not a file"),
            ("missing", "cannot be read: No such file"),
        ):
            with pytest.raises(UserError, match=f"{name} {words}"):
                gate.read_bytes(tmp_path / name)
    with pytest.raises(UserError, match="is a device, not a file"):
        gate.read_bytes(Path("/dev/zero"))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 11)
    with pytest.raises(UserError, match="has 11 bytes, and at most 10 are read"):
        gate.read_bytes(path, 10)
    assert gate.read_bytes(path, 11) == b"x" * 11


def test_rows_have_a_step(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert gate.read_lines(path) == [{"step": 1}, {"step": 2}]
    for line in ("[]", "{}", '{"step": -1}', '{"step": true}', '{"step": 1.5}', '{"step": 1'):
        path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
        with pytest.raises(UserError, match="line 2, is damaged"):
            gate.read_lines(path)


def test_a_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    assert gate.check_folder(tmp_path / "new") == tmp_path / "new"
    with pytest.raises(UserError, match="is not a folder"):
        gate.check_folder(tmp_path / "file")
    with pytest.raises(UserError, match="is a link"):
        gate.check_folder(tmp_path / "link")


def test_text_for_a_terminal() -> None:
    assert printable("plain – text, 5 %") == "plain – text, 5 %"
    assert printable("a\x1b[31mb\nc\u202ed\x9b") == r"a\x1b[31mb\nc\u202ed\x9b"
    long = printable("a" * 5000 + "end")
    assert len(long) < 2010
    assert " … " in long
    assert long.endswith("end")


def test_a_write_never_goes_through_a_link(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.write_text("mine")
    path = tmp_path / "a.json"
    path.symlink_to(notes)
    (tmp_path / f".a.json.{os.getpid()}.tmp").symlink_to(notes)
    files.atomic_write(path, "new")
    assert notes.read_text() == "mine"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_a_write_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "file" / "a", "Not a directory"),
        (tmp_path / "none" / "a", "No such file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UserError, match=f"cannot be written: {words}"):
            files.atomic_write(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_drive_without_fsync_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    files.save_json(tmp_path / "a.json", {"x": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
