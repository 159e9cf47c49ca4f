"""The white box once more, cell by cell in plain Python: slow, separate, and only for comparing.

Places are half cells (x, y) with x, y in 0..30; velocities are -1, 0 or 1 per axis.
"""

from __future__ import annotations

import heapq
import math

DOOR = {"^": (0, -1), "v": (0, 1), "<": (-1, 0), ">": (1, 0)}
PUSH = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]  # stay, up, down, left, right

Half = tuple[int, int]
Node = tuple[int, int, int, int]  # x, y, vx, vy


class SlowBox:
    """The rules of one drawing (16 rows of 16 characters)."""

    def __init__(self, rows: tuple[str, ...], momentum: bool = False) -> None:
        self.rows, self.momentum = rows, momentum
        ends: dict[str, list[Half]] = {}
        for y, row in enumerate(rows):
            for x, char in enumerate(row):
                if char.isalpha() and char != "v":
                    ends.setdefault(char, []).append((2 * x, 2 * y))
        self.pipe: dict[Half, Half] = {}
        for char, where in ends.items():
            if char.islower():
                self.pipe[where[0]] = ends[char.upper()][0]
            elif len(where) == 2:
                self.pipe[where[0]], self.pipe[where[1]] = where[1], where[0]

    def under(self, at: Half) -> list[str]:
        """What the box touches, '#' outside the frame."""
        xs, ys = {at[0] // 2, (at[0] + 1) // 2}, {at[1] // 2, (at[1] + 1) // 2}
        inside = all(0 <= x < 16 and 0 <= y < 16 for x in xs for y in ys)
        return [self.rows[y][x] for x in xs for y in ys] if inside else ["#"]

    def stands(self, at: Half) -> bool:
        under = self.under(at)
        return "#" not in under and ((at[0] % 2 == 0 and at[1] % 2 == 0) or "~" in under)

    def allowed(self, at: Half, to: Half, way: Half) -> bool:
        chars = self.under(at) + self.under(to)
        return "#" not in chars and all(DOOR[c] == way for c in chars if c in DOOR)

    def move(self, at: Half, velocity: Half) -> tuple[Half, Half, bool]:
        """(place, velocity, piped) after one step at this velocity."""
        under = self.under(at)
        budget = 1 if "~" in under else 4 if "+" in under else 2
        now, rest = at, at
        for _ in range(budget):
            before = now
            for way in ((velocity[0], 0), (0, velocity[1])):
                to = (now[0] + way[0], now[1] + way[1])
                if way != (0, 0) and self.allowed(now, to, way):
                    now = to
            if now != before and now in self.pipe:
                return self.pipe[now], velocity, True
            rest = now if self.stands(now) else rest
        kept = [v if rest[i] - at[i] == v * budget else 0 for i, v in enumerate(velocity)]
        return rest, (kept[0], kept[1]), False

    def step(self, node: Node, action: int) -> tuple[Node, bool]:
        """(next, piped)."""
        x, y, vx, vy = node
        if self.momentum:
            vx, vy = (min(1, max(-1, v + p)) for v, p in zip((vx, vy), PUSH[action], strict=True))
        else:
            vx, vy = PUSH[action]
        (x, y), (vx, vy), piped = self.move((x, y), (vx, vy))
        return ((x, y, vx, vy) if self.momentum else (x, y, 0, 0)), piped

    def places(self) -> list[Half]:
        return [(x, y) for y in range(31) for x in range(31) if self.stands((x, y))]

    def nodes(self) -> list[Node]:
        speeds = [-1, 0, 1] if self.momentum else [0]
        return [(x, y, vx, vy) for x, y in self.places() for vy in speeds for vx in speeds]

    def dijkstra(self, start: Node) -> dict[Half, float]:
        """Fewest actions to every place, at any velocity."""
        best: dict[Node, int] = {start: 0}
        heap = [(0, start)]
        while heap:
            d, node = heapq.heappop(heap)
            if d > best[node]:
                continue
            for action in range(5):
                new, _ = self.step(node, action)
                if d + 1 < best.get(new, 10**9):
                    best[new] = d + 1
                    heapq.heappush(heap, (d + 1, new))
        found = dict.fromkeys(self.places(), math.inf)
        for (x, y, _, _), d in best.items():
            found[x, y] = min(found[x, y], d)
        return found
