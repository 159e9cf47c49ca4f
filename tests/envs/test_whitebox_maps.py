"""Drawings are read as drawn, and refused with line and column when they are wrong."""

from pathlib import Path

import pytest

from isochrone.core.errors import UserError
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig, maps

BAD = {
    "unknown": ("....\n..x!\n", r"line 2, column 4: unknown character '!'"),
    "space": ("....\n. ..\n", r"line 2, column 2: unknown character ' '"),
    "ragged": ("....\n...\n", r"line 2, column 4: this line has 3 characters and the first one has 4"),
    "wide": ("." * 17, r"line 1, column 17: a line has at most 16"),
    "tall": ("...\n" * 17, r"has 17 lines"),
    "empty": ("\n\n", r"is empty"),
    "walls": ("####\n####\n", r"no free cell"),
    "one end": ("....\n..A.\n", r"line 2, column 3: pipe 'A' has 1 end "),
    "no exit": ("....\n.b..\n", r"line 2, column 2: pipe 'B' has 1 end "),
    "three ends": ("A..A\n...A\n", r"line 2, column 4: pipe 'A' has 3 ends"),
    "two ways and one": ("A..A\n...a\n", r"line 2, column 4: pipe 'A' has 3 ends"),
    "two entrances": ("a..A\n...a\n", r"pipe 'A' has 3 ends"),
    "only mouths": ("a#A\n###\n", None),
    "v is a door": ("v..V\n....\n", r"line 1, column 4: pipe 'V' has 1 end .*exactly twice$"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_drawings(case: str) -> None:
    text, message = BAD[case]
    if message is None:
        maps.read(text)  # an exit is a place to rest: unusual, not wrong
        return
    with pytest.raises(UserError, match=message):
        maps.read(text, "mine")


def test_line_numbers_count_the_empty_lines_above() -> None:
    with pytest.raises(UserError, match="line 4, column 2"):
        maps.read("\n\n...\n.?.\n")
    with pytest.raises(UserError, match="line 4, column 2"):
        maps.read("\n\n...\n.A.\n")


def test_small_drawings_are_centred_in_walls() -> None:
    drawing = maps.read("..\n.~\n")
    assert drawing.rows[6] == "#" * 16
    assert drawing.rows[7] == "#" * 7 + ".." + "#" * 7
    assert drawing.rows[8] == "#" * 7 + ".~" + "#" * 7
    assert drawing.cells() == [(7, 7), (8, 7), (7, 8), (8, 8)]


def test_pipes_are_read() -> None:
    drawing = maps.read("A.b\n...\nB.A")
    left, top = 6, 6
    assert drawing.pipes == {
        (left, top): (left + 2, top + 2),
        (left + 2, top + 2): (left, top),
        (left + 2, top): (left, top + 2),
    }
    assert drawing.entrances() == {(left + 2, top)}


def test_map_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("....\r\n.##.\r\n....\r\n")
    env = WhiteBox(WhiteBoxConfig(map_file=str(file)), 2)
    assert env.map.name == "mine"
    assert len(env.places().clock) == 10
    with pytest.raises(UserError, match="cannot be read"):
        maps.load("empty", str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        maps.load("empty", str(tmp_path))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not text"):
        maps.load("empty", str(file))
    file.write_text("..\n.%q\n")
    with pytest.raises(UserError, match=r"mine.txt', line 2"):
        maps.load("empty", str(file))


def test_unknown_map_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'four-rooms'"):
        maps.load("four-room")


def test_there_is_a_dozen() -> None:
    assert len(maps.names()) >= 12
    assert {"empty", "corridor", "two-rooms", "four-rooms", "maze", "pipes", "one-way"} <= set(maps.names())
    pipes = maps.load("pipes")
    assert len(set(pipes.letters.values())) >= 2
    assert len(pipes.entrances()) >= 1
