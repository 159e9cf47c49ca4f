"""Declarations, figures, report: each number is declared once, all is drawn, one file contains it, none is fetched."""

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
from perfect import Perfect, make_env
from studies.harness import aggregate
from torch import nn

from isochrone.core import config as configuration
from isochrone.core import registry
from isochrone.core.errors import UserError
from isochrone.evals import report, store, suite
from isochrone.evals.context import Context, EvalConfig
from isochrone.evals.figure import THEMES, png
from isochrone.evals.maps import FINE, cliffs, fine, grid_of, on_grid
from isochrone.evals.metric import Estimate, Family, Question, Refused, _Declared, declared, metric_of, rows
from isochrone.workflows.report import summary

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "img", "source", "br"}


@lru_cache
def evaluated() -> tuple[suite.Results, dict[str, Any]]:
    """With a planner that does nothing, under a name other than CEM's."""
    env = make_env(envs=10)
    config = EvalConfig(episodes=10, length=20, pairs=40, horizon=8)
    context = suite.recording_context(Perfect(env), env, config, agents={"mppi": _Still(env.spec.action)})
    return suite.evaluate(context)


class _Still:
    name, needs_goal = "mppi", True

    def __init__(self, action: Any) -> None:
        self.action = action

    def start(self, batch: int, goal: Any = None, rng: Any = None) -> torch.Tensor:
        return torch.zeros(batch)

    def restart(self, carry: torch.Tensor, rows: torch.Tensor, goal: Any = None) -> torch.Tensor:
        return carry

    def act(self, obs: Any, carry: torch.Tensor, mode: str = "eval") -> tuple[torch.Tensor, Any, dict[str, Any]]:
        return self.action.idle((len(carry),)), carry, {"evaluations": 3}


def test_results_carry_interval_baseline_and_target() -> None:
    results, arrays = evaluated()
    entry = results["reach.spearman"]
    assert entry["value"] == pytest.approx(1)
    assert entry["low"] <= entry["high"]
    assert entry["baseline"] < 1
    assert (entry["target"], entry["met"]) == ("≥ 0.98", True)
    best = results["planning.best.success"]
    assert best == {**results["planning.mppi.success"], "target": "≥ 0.99", "met": False}
    assert results["planning.replay.success"]["value"] == 1
    json.dumps(results, allow_nan=False)
    assert suite.values(results)["reach.mae"] == 0
    assert all(isinstance(v, (np.ndarray, list)) for v in arrays.values())


def test_what_cannot_be_measured_is_refused_with_the_reason(tmp_path: Path) -> None:
    """In results, terminal table and report; it counts as a target that is not met."""
    entry = suite.entry_of("action_consistency.drift", Refused("p has collapsed"))
    assert entry == {"value": None, "refused": "p has collapsed", "target": "≤ 0.1", "met": False}
    undefined = suite.entry_of("reach.mae", float("nan"))
    assert undefined == {"value": None, "refused": suite.NOT_FINITE, "target": "≤ 0.7", "met": False}
    results = {"action_consistency.drift": entry, "reach.mae": suite.entry_of("reach.mae", 0.1)}
    assert "refused, p has collapsed" in _flat(summary(results))  # type: ignore[arg-type]
    html = report.write_report(tmp_path / "report.html", results, {}, {}).read_text(encoding="utf-8")  # type: ignore[arg-type]
    assert "p has collapsed" in html
    assert "1 of 2 targets met" in html


def test_a_target_that_the_baseline_meets_too_says_nothing(tmp_path: Path) -> None:
    trivial = suite.entry_of("reach.mae", Estimate(0.1, baseline=0.6))
    assert trivial == {"value": 0.1, "baseline": 0.6, "target": "≤ 0.7", "met": None}
    trivial.pop("met")  # as it is read back from a run
    results = {"reach.mae": trivial}
    assert "≤ 0.7 baseline too" in summary(results)  # type: ignore[arg-type]
    html = report.write_report(tmp_path / "report.html", results, {}, {}).read_text(encoding="utf-8")  # type: ignore[arg-type]
    assert "the baseline meets it too" in html
    assert "targets met" not in html


def test_the_same_seed_gives_the_same_numbers() -> None:
    env = make_env(envs=6)
    config = EvalConfig(episodes=6, length=12, pairs=10, horizon=4)
    contexts = [suite.recording_context(Perfect(env), env, config) for _ in range(2)]
    assert suite.evaluate(contexts[0])[0] == suite.evaluate(contexts[1])[0]


def test_a_model_without_distance_is_evaluated_as_far_as_possible() -> None:
    class Blind(nn.Module):
        """Everything of the perfect model except d_p."""

        provides, is_stochastic = frozenset({"z", "h"}), False

        def __init__(self, env: Any) -> None:
            super().__init__()
            inner = Perfect(env)
            self.action = inner.action
            for name in ("encode_image", "decode", "start", "update", "step", "imagine"):
                setattr(self, name, getattr(inner, name))

    env = make_env(envs=6)
    config = EvalConfig(episodes=6, length=12, pairs=0, horizon=4)
    results, _ = suite.evaluate(suite.recording_context(Blind(env), env, config))
    assert "perception.spearman" in results
    assert not any(key.startswith(("reach", "disagreement", "planning")) for key in results)


# --- one declaration ------------------------------------------------------------------------------------------------


def test_a_metric_without_its_declaration_is_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Results, report, terminal table and rows of the evidence pages read the declaration and nothing else."""
    family, label = registry.get("metric", "reach"), "mean absolute error of d_p"
    results, _ = evaluated()
    html = report.write_report(tmp_path / "with.html", results, {}, {}).read_text(encoding="utf-8")
    assert label in html
    assert label in _flat(summary(results))
    stored = [{"values": results}]
    assert "reach.mae" in [line.key for line in aggregate.lines("role", stored, [])]

    kept = tuple(m for m in family.metrics if m.key != "reach.mae")
    monkeypatch.setattr(family, "metrics", kept)
    env, config = make_env(envs=4), EvalConfig(episodes=4, length=8, pairs=0, horizon=4)
    context = suite.recording_context(Perfect(env), env, config)
    assert "reach.mae" not in suite.compute(family, context)[0]
    html = report.write_report(tmp_path / "without.html", results, {}, {}).read_text(encoding="utf-8")
    assert label not in html
    assert label not in _flat(summary(results))
    assert "reach.mae" not in [line.key for line in aggregate.lines("role", stored, [])]


def _flat(table: str) -> str:
    """A table's text with its wrapped first column joined again."""
    return " ".join(line[:38].strip() for line in table.splitlines())


def test_every_number_is_declared_once() -> None:
    keys = [metric.key for _, metric in declared()]
    assert len(keys) == len(set(keys))
    results, _ = evaluated()
    assert all(metric_of(key) is not None for key in results)


def test_a_number_without_declaration_is_left_out() -> None:
    question = Question("q", "Why?", "Read it.", order=1)
    made = Family("toy", question, (), (), None, 1, _Declared(lambda context: {"a": 1.0, "b": 2.0}, ()))
    context = Context(torch.nn.Identity(), EvalConfig(), torch.Generator())
    assert suite.compute(made, context) == ({}, {})


@pytest.mark.parametrize("agent", ["cem", "mppi", "actor_critic"])
def test_the_headline_is_the_return_of_the_agent_that_played(agent: str, tmp_path: Path) -> None:
    """Never the baseline's, whatever the planner is called."""
    results = {
        f"return.{agent}": {"value": 7.25, "low": 6.0, "high": 8.0, "baseline": 1.5},
        "return.noop": {"value": 0.5},
        "return.random": {"value": 1.5},
    }
    [metrics] = [metrics for question, metrics in rows(results).items() if question.name == "return"]
    assert metrics[0].key == f"return.{agent}"
    html = report.write_report(tmp_path / "report.html", results, {}, {}).read_text(encoding="utf-8")
    assert f'<span class="big">7.25</span><small>return of {agent}</small>' in html
    assert f"Return of {agent}: <b>7.25</b> (6.00 … 8.00), where the baseline is 1.50" in html


def test_the_headline_of_planning_is_the_best_planners() -> None:
    table = summary(evaluated()[0])
    assert "goals reached by the best planner" in table
    assert "mppi" in table
    assert all(len(line) <= 80 for line in table.splitlines())


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="length"):
        configuration.override(EvalConfig(), {"length": "1"})
    with pytest.raises(UserError, match="episodes"):
        configuration.override(EvalConfig(), {"episodes": "0"})


STOCHASTIC = {"futures", "openloop_pixels", "latent_information", "multimodality"}
"""Figures of models that sample: see test_openloop_pixels.py and test_multimodality.py."""


@pytest.mark.parametrize("theme", list(THEMES))
def test_every_figure_is_drawn_and_leaves_no_settings(theme: str) -> None:
    before = dict(matplotlib.rcParams)
    figures = suite.draw_all({**evaluated()[1], "training.loss": np.c_[np.arange(50), np.exp(-np.arange(50.0))]}, theme)
    assert set(figures) == set(registry.names("figure")) - STOCHASTIC
    for figure in figures.values():
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
    assert grid.shape == (5, 7)
    assert grid.pitch == 4
    coarse = on_grid(grid, value)
    raster = fine(coarse)
    middle = raster[FINE // 2 :: FINE, FINE // 2 :: FINE]
    assert np.allclose(middle, coarse, equal_nan=True)  # exact at the places
    beside = raster[2 * FINE : 3 * FINE, 2 * FINE : 3 * FINE]  # the cell left of the wall
    assert beside.max() < 1.6
    assert np.allclose(np.diff(beside, axis=1), 1 / FINE)
    assert not cliffs(raster).any()
    step = on_grid(grid_of(np.array([[0.0, 0], [4, 0], [8, 0]])), np.array([0.0, 1.0, 9.0]))
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
    path = report.write_report(folder / "report.html", results, figures, {"title": "a <b> run", **meta}, dark=figures)
    return path.read_text(encoding="utf-8")


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    html = written(
        tmp_path,
        about="pipes, seed 0",
        config={"lr": 1e-3, "note": "</pre><script>"},
        versions={"torch": torch.__version__},
        routes="jepa  encoder 0  predictor moved",
    )
    reader = _Reader()
    reader.feed(html)
    assert reader.open == []
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    assert all(link[1:] in reader.ids for link in reader.links if link.startswith("#"))
    assert "<script" not in html
    assert "@import" not in html
    assert not re.search(r"url\(", html)
    assert "a &lt;b&gt; run" in html
    assert "&lt;script&gt;" in html
    assert html.index("Lines join the places") < html.index("Does it predict?") < html.index("Is z perceptual?")
    assert html.index("Is z perceptual?") < html.index("Is p reachability?") < html.index("Can one plan here?")
    for word in ("95 % interval", "baseline", "met ≥ 0.98", "jepa", torch.__version__, "missed ≥ 99 %", "replay"):
        assert word in html, word
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_of_little_says_little(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "new" / "report.html", {"reach.mae": {"value": 0.5}}, {}, {})
    html = path.read_text(encoding="utf-8")
    assert "Is p reachability?" in html
    assert "Can one plan here?" not in html
    assert "<img" not in html


def test_refused_probes_say_why(tmp_path: Path) -> None:
    results = {"perception.position_error": {"value": None, "refused": "the probe has 3 rows for 9 features"}}
    html = report.write_report(
        tmp_path / "report.html", {**results, "perception.spearman": {"value": 0.9}}, {}, {}
    ).read_text()
    assert "3 rows for 9 features" in html


def test_numbers_as_text() -> None:
    assert report.write_number(0.9876, "%") == "98.8 %"
    assert report.write_number(1.0, "%") == "100 %"
    assert report.write_number(-0.5, "{:.2f}") == "−0.50"
    assert report.write_number(None, "%") == "–"


def test_results_and_curves_survive_the_disk(tmp_path: Path) -> None:
    results = evaluated()[0]
    suite.write_results(tmp_path / "results.json", results, {"seed": 3})
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["results"] == results
    curves = store.curves({"step": k, "loss": 1 / (k + 1), "note": "x", "bad": None} for k in range(3))
    assert list(curves) == ["training.loss"]
    assert curves["training.loss"][:, 0].tolist() == [0, 1, 2]
    store.save_arrays(tmp_path / "arrays.json", {"a": np.array([[1.0, np.nan]]), "b": np.array(["x"])})
    assert json.loads((tmp_path / "arrays.json").read_text()) == {"a": [[1.0, None]], "b": ["x"]}
    paths = store.save_figures(tmp_path / "figures" / "5", {"x": b"\x89PNG"})
    assert paths[0].read_bytes() == b"\x89PNG"
