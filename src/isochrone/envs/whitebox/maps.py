"""A map is a small text drawing; here it is read, checked and turned into tables of cells.

Characters (x runs right, y runs down, at most 16 by 16; smaller drawings are centred in walls):

====  =====================================================================================================
``#``  wall
``.``  free
``A``  an uppercase letter written twice: a two-way pipe. Entering one end puts the box at the other end at once
``a``  a lowercase letter: the entrance of a one-way pipe whose exit is the same letter in uppercase (once).
       ``v`` is a door, so no pipe is called v
``>``  one-way door, also ``<  ^  v``: entered and left in that direction only
``~``  slow zone: half a cell per action while the box touches it
``+``  fast zone: two cells per action (stopping at walls)
``%``  occluder: the box is hidden where it overlaps one
====  =====================================================================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from isochrone.core import gate
from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.paths import check_regular
from isochrone.envs.whitebox.drawings import DRAWINGS

CELLS = 16  # cells per side of the frame
LARGEST_FILE = 2**16  # bytes
DOORS = {"^": 0, "v": 1, "<": 2, ">": 3}  # the one direction (up, down, left, right) that a door lets through
PLAIN = frozenset("#.~+%") | frozenset(DOORS)

Cell = tuple[int, int]  # (column, row), counted from the top left of the 16 x 16 frame


@dataclass(frozen=True)
class Map:
    """A checked drawing, centred in a 16 x 16 frame. `pipes` maps every entrance cell to the cell it leads to."""

    name: str
    rows: tuple[str, ...]  # 16 strings of 16 characters
    pipes: dict[Cell, Cell]
    letters: dict[Cell, str]  # every pipe end and its uppercase letter

    def __getitem__(self, cell: Cell) -> str:
        return self.rows[cell[1]][cell[0]]

    def cells(self, chars: str | None = None) -> list[Cell]:
        """All cells showing one of `chars` (None: every cell that is not a wall), row by row."""
        every = [(x, y) for y in range(CELLS) for x in range(CELLS)]
        return [c for c in every if (self[c] != "#" if chars is None else self[c] in chars)]

    def entrances(self) -> set[Cell]:
        """Entrances of one-way pipes: nobody can rest there."""
        return {a for a, b in self.pipes.items() if self.pipes.get(b) != a}

    def starts(self, start: str) -> list[Cell]:
        """The cells where an episode may begin: 'random' means all where a box can rest, 'column,row' one.

        Raises:
            UserError: neither, or no box can rest there.
        """
        shut = self.entrances()
        return [c for c in self.cells() if c not in shut] if start == "random" else [self.named("start", start)]

    def resting(self, column: int, row: int) -> Cell:
        """The cell, if a box can rest there.

        Raises:
            UserError: it lies outside, is a wall, or the mouth of a one-way pipe.
        """
        if not (0 <= column < CELLS and 0 <= row < CELLS):
            raise UserError(f"cell {column},{row} lies outside the frame: columns and rows go from 0 to {CELLS - 1}")
        if self[column, row] == "#" or (column, row) in self.entrances():
            what = "a wall" if self[column, row] == "#" else "the mouth of a pipe"
            raise UserError(f"cell {column},{row} is {what} of map '{self.name}': choose a free cell")
        return column, row

    def named(self, option: str, text: str) -> Cell:
        """The resting cell that 'column,row' names; `option` is where it was written.

        Raises:
            UserError: not two whole numbers, or no such cell.
        """
        try:
            column, row = (int(word) for word in text.split(","))
        except ValueError:
            raise UserError(f"{option} = {text!r}: must be 'random' or a cell such as '3,12'") from None
        return self.resting(column, row)


def names() -> list[str]:
    """The named maps, sorted."""
    return sorted(DRAWINGS)


def load(name: str, file: str | None = None) -> Map:
    """The named map, or the drawing in `file` when one is given.

    Raises:
        UserError: no such map or file, or the drawing is wrong (see `read`).
    """
    if file:
        check_regular(Path(file), "map file")
        try:
            text = gate.read_bytes(Path(os.path.realpath(file)), LARGEST_FILE).decode()
        except UserError as error:
            raise UserError(f"map file '{file}' cannot be read: {error}") from None
        except UnicodeDecodeError as error:
            raise UserError(
                f"map file '{file}' is not text: draw the map with # . and the letters of the docs"
            ) from error
        return read(text, Path(file).stem, f"map file '{file}'")
    if name not in DRAWINGS:
        raise UserError(f"no map called '{name}'{did_you_mean(name, DRAWINGS)}")
    return read(DRAWINGS[name], name)


def read(text: str, name: str = "drawing", source: str | None = None) -> Map:
    """Check a drawing and centre it in walls.

    Raises:
        UserError: an unknown character, lines of unequal length, too large, no free cell, or a pipe without two ends;
            the sentence names line and column (both from 1, in the drawing as written).
    """
    source = source or f"map '{name}'"
    lines = [line.rstrip() for line in text.splitlines()]
    skipped = 0  # empty lines above the drawing, so that errors name the line of the file
    while lines and not lines[0]:
        lines, skipped = lines[1:], skipped + 1
    while lines and not lines[-1]:
        lines = lines[:-1]
    _check_shape(lines, skipped, source)
    _check_characters(lines, skipped, source)
    width, height = len(lines[0]), len(lines)
    left, top = (CELLS - width) // 2, (CELLS - height) // 2
    blank = "#" * CELLS
    body = ["#" * left + line + "#" * (CELLS - width - left) for line in lines]
    rows = tuple([blank] * top + body + [blank] * (CELLS - height - top))
    pipes, letters = _pipes(rows, left, top - skipped, source)
    drawing = Map(name, rows, pipes, letters)
    if not set(drawing.cells()) - drawing.entrances():
        raise UserError(f"{source} has no free cell: draw at least one '.'")
    return drawing


def _check_shape(lines: list[str], skipped: int, source: str) -> None:
    if not lines:
        raise UserError(f"{source} is empty: draw at least one '.'")
    if len(lines) > CELLS:
        raise UserError(f"{source} has {len(lines)} lines: a map has at most {CELLS}")
    for number, line in enumerate(lines, 1 + skipped):
        if len(line) > CELLS:
            raise UserError(f"{source}, line {number}, column {CELLS + 1}: a line has at most {CELLS} characters")
        if len(line) != len(lines[0]):
            raise UserError(
                f"{source}, line {number}, column {len(line) + 1}: this line has {len(line)} characters and the first "
                f"one has {len(lines[0])}; make all lines equally long"
            )


def _check_characters(lines: list[str], skipped: int, source: str) -> None:
    for number, line in enumerate(lines, 1 + skipped):
        for column, char in enumerate(line, 1):
            if char not in PLAIN and not (char.isascii() and char.isalpha()):
                raise UserError(
                    f"{source}, line {number}, column {column}: unknown character {char!r}; "
                    "use # . ~ + % > < ^ v or a letter for a pipe"
                )


def _pipes(rows: tuple[str, ...], left: int, top: int, source: str) -> tuple[dict[Cell, Cell], dict[Cell, str]]:
    """Where every pipe entrance leads. (left, top) turn a cell back into column and line of the drawing."""
    ends: dict[str, list[Cell]] = {}
    for y, row in enumerate(rows):
        for x, char in enumerate(row):
            if char.isalpha() and char not in DOORS:
                ends.setdefault(char, []).append((x, y))
    pipes: dict[Cell, Cell] = {}
    letters: dict[Cell, str] = {}
    for letter in sorted({char.upper() for char in ends}):
        big, small = ends.get(letter, []), ends.get(letter.lower(), [])
        if len(big) == 2 and not small:
            pipes[big[0]], pipes[big[1]] = big[1], big[0]
        elif len(big) == 1 and len(small) == 1:
            pipes[small[0]] = big[0]
        else:
            x, y = (big + small)[-1]
            low = "" if letter == "V" else f", or '{letter.lower()}' once and '{letter}' once for a one-way pipe"
            raise UserError(
                f"{source}, line {y - top + 1}, column {x - left + 1}: pipe '{letter}' has {len(big) + len(small)} "
                f"end{'s' * (len(big) + len(small) != 1)} ({len(big)} '{letter}', {len(small)} '{letter.lower()}'); "
                f"write '{letter}' exactly twice{low}"
            )
        letters.update(dict.fromkeys(big + small, letter))
    return pipes, letters
