"""Sinks by name; the terminal within 80 columns; TensorBoard's file read back."""

import io
import sys

import pytest
import torch
from rich.console import Console as RichConsole

from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.training.console import Console, clock, short
from isochrone.training.run import Run
from isochrone.training.sinks import open_sinks, scalars

ROW = {
    "loss": torch.tensor(0.1234),
    "loss/" + "x" * 60: 2.0,
    "steps_per_s": 45.0,
    "frames_per_s": 23040.0,
    "time_data": 0.1,
}


def test_sinks_open_by_name(tmp_path):
    assert {"console", "jsonl", "tensorboard"} <= set(registry.names("sink"))
    with Run.create(tmp_path, {}) as run:
        sinks = open_sinks(["jsonl", "tensorboard"], run, 10)
        for sink in sinks:
            sink.write(5, {"a": torch.tensor(2.5), "map": torch.zeros(3)})
            sink.close()
        assert run.rows() == [{"step": 5, "a": 2.5, "map": [0.0] * 3}]
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("a")] == [(5, 2.5)]
        with pytest.raises(UserError, match="no sink called 'tensorbord'; did you mean 'tensorboard'"):
            open_sinks(["tensorbord"], run, 10)


def test_a_missing_tensorboard_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with Run.create(tmp_path, {}) as run, pytest.raises(UserError, match="pip install tensorboard"):
        open_sinks(["tensorboard"], run, 10)


def test_scalars_are_finite_single_numbers():
    assert scalars({"a": torch.tensor(1), "b": [1, 2], "c": "x", "d": float("inf"), "e": True}) == {"a": 1.0}


def test_plain_lines_fit_80_columns():
    out = io.StringIO()
    sink = Console(Console.Config(), None, 20_000, RichConsole(file=out, width=200))
    sink.tick(1199)
    sink.write(1200, ROW)
    sink.write(1200, {"probe": 0.5})
    sink.close()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("step 1200/20000  6 %  45 steps/s  23k frames/s  left 6:57  loss 0.1234")
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)


def test_the_live_picture_fits_80_columns():
    out = io.StringIO()
    screen = RichConsole(file=out, force_terminal=True, width=80, color_system=None)
    sink = Console(Console.Config(), None, 20_000, screen)
    sink.write(1200, ROW)
    sink.write(1200, {"probe": 0.5, "loss/jepa": 1.0})
    sink.tick(1201)
    picture = io.StringIO()
    shown = RichConsole(file=picture, width=80)
    shown.print(sink.render())
    sink.close()
    text = picture.getvalue()
    assert "step 1201/20000" in text
    assert "left 6:57" in text
    assert "probe" in text
    assert "jepa" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_short_forms():
    assert clock(75.3) == "1:15"
    assert clock(4000) == "1:06:40"
    assert [short(x) for x in (0.123456, 999.0, 12345.0, 2e6)] == ["0.123", "999", "12.3k", "2M"]
