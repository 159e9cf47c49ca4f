"""Suite, figures, report: everything is drawn, one file holds it, nothing is fetched."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from perfect import Perfect, world

from isochrone.core import config as configuration
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.evals import report, report_style, store, suite
from isochrone.evals.figures.field import FINE, cliffs, fine, grid_of, laid
from isochrone.evals.figures.style import THEMES, png

VOID = {"meta", "link", "img", "source", "br"}


@lru_cache
def evaluated() -> tuple[suite.Results, dict[str, Any]]:
    env = world(envs=10)
    config = suite.EvalConfig(episodes=10, length=20, pairs=40, horizon=8)
    return suite.evaluate(Perfect(env), env, config, agents={"cem": _Still(env.spec.action)})


class _Still:
    def __init__(self, action: Any) -> None:
        self.action = action

    def start(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch)

    def act(self, obs: Any, carry: torch.Tensor, mode: str) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        return self.action.idle((len(carry),)), carry, {"evaluations": 3}


def test_results_carry_interval_floor_and_bar() -> None:
    results, arrays = evaluated()
    entry = results["reach.spearman"]
    assert entry["value"] == pytest.approx(1) and entry["low"] <= entry["high"]
    assert entry["floor"] < 1 and entry["bar"] == "≥ 0.98" and entry["met"] is True
    assert results["planning.best.success"] == {**results["planning.cem.success"], "bar": "≥ 0.99"}
    assert results["planning.cem.success"]["met"] is False and results["planning.replay.success"]["value"] == 1
    json.dumps(results, allow_nan=False)
    assert suite.values(results)["reach.mae"] == 0
    assert all(isinstance(v, (np.ndarray, list)) for v in arrays.values())


def test_the_same_seed_gives_the_same_numbers() -> None:
    env = world(envs=6)
    config = suite.EvalConfig(episodes=6, length=12, pairs=10, horizon=4)
    first, second = (suite.evaluate(Perfect(env), env, config)[0] for _ in range(2))
    assert first == second


def test_a_model_without_p_is_measured_as_far_as_it_goes() -> None:
    class NoPose(Perfect):
        @property
        def distance(self) -> Any:  # type: ignore[override]
            raise AttributeError("no d_p")

    env = world(envs=6)
    results, _ = suite.evaluate(NoPose(env), env, suite.EvalConfig(episodes=6, length=12, pairs=0, horizon=4))
    assert "perception.spearman" in results and not any(k.startswith(("reach", "planning")) for k in results)


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="length"):
        configuration.override(suite.EvalConfig(), {"length": "1"})
    with pytest.raises(UserError, match="episodes"):
        configuration.override(suite.EvalConfig(), {"episodes": "0"})


BELIEF = {"futures", "foresight", "nats", "forks"}  # of models that draw: see test_foresight.py and test_forks.py


@pytest.mark.parametrize("theme", list(THEMES))
def test_every_figure_is_drawn_and_leaves_no_settings(theme: str) -> None:
    before = dict(matplotlib.rcParams)
    drawn = suite.draw_all({**evaluated()[1], "training.loss": np.c_[np.arange(50), np.exp(-np.arange(50.0))]}, theme)
    assert set(drawn) == set(registry.names("figure")) - BELIEF
    for figure in drawn.values():
        assert png(figure, 40)[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before
    assert suite.draw_all({}) == {}


def test_equal_figures_are_equal_files() -> None:
    arrays = evaluated()[1]
    draw = registry.get("figure", "isochrone")
    assert png(draw(arrays), 40) == png(draw(arrays), 40)


def test_the_field_keeps_to_its_side_of_a_wall() -> None:
    xy = np.array([[x * 4, y * 4] for y in range(3) for x in range(5) if x != 2], float)
    value = np.where(xy[:, 0] < 8, xy[:, 0] / 4, 30 + xy[:, 0] / 4)
    grid = grid_of(xy)
    assert grid.shape == (5, 7) and grid.pitch == 4
    coarse = laid(grid, value)
    raster = fine(coarse)
    middle = raster[FINE // 2 :: FINE, FINE // 2 :: FINE]
    assert np.allclose(middle, coarse, equal_nan=True)  # exact at the places
    beside = raster[2 * FINE : 3 * FINE, 2 * FINE : 3 * FINE]  # the cell left of the wall
    assert beside.max() < 1.6 and np.allclose(np.diff(beside, axis=1), 1 / FINE)
    assert not cliffs(raster).any()
    step = laid(grid_of(np.array([[0.0, 0], [4, 0], [8, 0]])), np.array([0.0, 1.0, 9.0]))
    assert cliffs(fine(step)).any()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes the wrong element"


def written(folder: Path, **meta: Any) -> str:
    results, arrays = evaluated()
    figures = {k: png(v, 40) for k, v in suite.draw_all(arrays).items()}
    path = report.write_report(folder, results, figures, {"title": "a <b> run", **meta}, dark=figures)
    return path.read_text(encoding="utf-8")


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    html = written(
        tmp_path,
        about="pipes, seed 0",
        config={"lr": 1e-3, "note": "</pre><script>"},
        versions={"torch": torch.__version__},
        routes=[{"loss": "jepa", "encoder": "0", "predictor": "moved"}],
    )
    reader = _Reader()
    reader.feed(html)
    assert reader.open == []
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    assert all(link[1:] in reader.ids for link in reader.links if link.startswith("#"))
    assert "<script" not in html and "@import" not in html and not re.search(r"url\(", html)
    assert "a &lt;b&gt; run" in html and "&lt;script&gt;" in html
    assert html.index("Isochrone map") < html.index("Does it predict?") < html.index("Is z perceptual?")
    assert html.index("Is z perceptual?") < html.index("Is p reachability?") < html.index("Can one plan here?")
    for word in ("95 % interval", "floor", "met ≥ 0.98", "jepa", torch.__version__, "missed ≥ 95 %", "replay"):
        assert word in html, word
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_of_little_says_little(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "new", {"reach.mae": {"value": 0.5}}, {}, {})
    html = path.read_text(encoding="utf-8")
    assert "Is p reachability?" in html and "Can one plan here?" not in html and "<img" not in html


def test_refused_probes_say_why(tmp_path: Path) -> None:
    results = {"perception.position_error": {"value": None, "refused": "the probe has 3 rows for 9 features"}}
    html = report.write_report(tmp_path, {**results, "perception.spearman": {"value": 0.9}}, {}, {}).read_text()
    assert "3 rows for 9 features" in html


def test_numbers_are_written_for_readers() -> None:
    assert report.write_number(0.9876, "%") == "98.8 %" and report.write_number(1.0, "%") == "100 %"
    assert report.write_number(-0.5, "{:.2f}") == "−0.50" and report.write_number(None, "%") == "–"


def test_results_and_curves_survive_the_disk(tmp_path: Path) -> None:
    results = evaluated()[0]
    suite.write_results(tmp_path / "results.json", results, {"seed": 3})
    assert suite.read_results(tmp_path / "results.json") == results
    lines = [json.dumps({"step": k, "loss": 1 / (k + 1), "note": "x", "bad": None}) for k in range(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "lo']))
    curves = store.curves(tmp_path / "metrics.jsonl")
    assert list(curves) == ["training.loss"] and curves["training.loss"][:, 0].tolist() == [0, 1, 2]
    store.save_arrays(tmp_path / "arrays.json", {"a": np.array([[1.0, np.nan]]), "b": np.array(["x"])}, ["a"])
    assert json.loads((tmp_path / "arrays.json").read_text()) == {"a": [[1.0, None]]}
    paths = store.save_figures(tmp_path / "figures" / "5", {"x": b"\x89PNG"})
    assert paths[0].read_bytes() == b"\x89PNG"


def test_no_string_of_the_style_sheet_crosses_a_line() -> None:
    """A browser drops the whole rule, and the next one with it, without a word."""
    assert not [row for row in report_style.CSS.splitlines() if row.count('"') % 2]
    assert report_style.CSS.count("{") == report_style.CSS.count("}")
