"""The terminal: rate, time left and losses, in 80 columns; a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from isochrone.core.config import option
from isochrone.core.registry import register
from isochrone.training.run import Run
from isochrone.training.sinks import scalars

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import Group

# Shown in the headline, or of interest to the file only.
_APART = {"steps_per_s", "frames_per_s", "lr", "loss", "grad_norm"}


def clock(seconds: float) -> str:
    """75.3 -> '1:15', 4000 -> '1:06:40'."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def short(number: float) -> str:
    """12345 -> '12.3k': three digits that fit a column."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


@register("sink", "console")
class Console:
    """Shows the newest numbers on standard error, so that standard output stays free for results.

    `write` is the sink; `tick(step)` moves the progress bar between two reports: pass it to `fit` as `progress`.
    """

    @dataclass(frozen=True)
    class Config:
        name: ClassVar[str] = "console"
        width: int = option(80, "columns at most", ge=40)

    def __init__(
        self, config: Config, run: Run | None = None, steps: int = 0, console: RichConsole | None = None
    ) -> None:
        from rich.console import Console as RichConsole

        self.out = console or RichConsole(stderr=True)
        self.width = min(config.width, self.out.width)
        self.steps, self.step = steps, 0
        self.losses: dict[str, float] = {}
        self.rest: dict[str, float] = {}
        self.rate: dict[str, float] = {}
        self.live: Any = None

    def tick(self, step: int) -> None:
        """Step `step` is done; draws at most a few times a second, and only on a terminal."""
        self.step = step
        if self.out.is_terminal:
            self._screen()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the newest numbers and show them."""
        numbers = scalars(values)
        self.step = step
        training = "steps_per_s" in numbers
        if training:
            self.rate = {name: numbers[name] for name in _APART & numbers.keys()}
        losses = {
            n.removeprefix("loss/"): v for n, v in numbers.items() if n not in _APART and not n.startswith("time_")
        }
        if training:
            self.losses = losses
        else:
            self.rest |= losses
        if self.out.is_terminal:
            self._screen()
        else:
            self.out.print(
                self.line(losses), width=self.width, no_wrap=True, overflow="ellipsis", highlight=False, markup=False
            )

    def close(self) -> None:
        """Leave the last display on the screen."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    # --- drawing ----------------------------------------------------------------------------------

    def headline(self) -> str:
        """'step 1200/20000  6 %  45 steps/s  23k frames/s  left 6:57  loss 0.123'."""
        words = [f"step {self.step}/{self.steps}" if self.steps else f"step {self.step}"]
        if self.steps:
            words.append(f"{100 * self.step // self.steps} %")
        speed = self.rate.get("steps_per_s", 0.0)
        if speed > 0:
            words.append(f"{short(speed)} steps/s  {short(self.rate.get('frames_per_s', 0.0))} frames/s")
            words.append(f"left {clock(max(0, self.steps - self.step) / speed)}")
        if "loss" in self.rate:
            words.append(f"loss {self.rate['loss']:.4g}")
        return "  ".join(words)

    def line(self, numbers: Mapping[str, float]) -> str:
        """The headline and as many of the numbers as fit, for a log file or a pipe."""
        return "  ".join([self.headline(), *(f"{n} {v:.3g}" for n, v in numbers.items())])

    def _screen(self) -> None:
        if self.live is None:
            from rich.live import Live

            self.live = Live(console=self.out, refresh_per_second=4, get_renderable=self.render)
            self.live.start()

    def render(self) -> Group:
        """Headline, progress bar and a table of the newest numbers, two to a row."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        numbers = [*self.losses.items(), *self.rest.items()]
        half = (len(numbers) + 1) // 2
        room = (self.width - 6) // 2 - 11
        for _ in range(2):
            table.add_column(width=room, no_wrap=True, overflow="ellipsis")
            table.add_column(width=9, justify="right")
        for row in range(half):
            cells: list[str] = []
            for name, value in numbers[row::half]:
                cells += [name, f"{value:.4g}"]
            table.add_row(*(Text(c) for c in cells))
        progress = ProgressBar(total=max(1, self.steps), completed=self.step, width=self.width)
        return Group(Text(self.headline(), no_wrap=True, overflow="ellipsis"), progress, table)
