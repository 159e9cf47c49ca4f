"""From results to rows: means over seeds with intervals, pooled shares, bars, staleness; and the committed page."""

import json
import math
from pathlib import Path

import pytest
from ministudy import CLAIMS, STUDY, store
from PIL import Image
from studies.harness import aggregate, evidence, result, runner
from studies.harness import study as plan
from studies.harness.cell import rise
from tree import ROOT

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec
from isochrone.evals.stats import wilson
from isochrone.workflows.train import assembled

ELSEWHERE = Spec({"image": (3, 64, 64)}, ActionSpec("continuous", 1))
"""A world that draws with a package which need not be here."""


def test_the_t_interval() -> None:
    found = aggregate.t_interval([1.0, 2.0, 3.0])
    assert found is not None and found == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    assert aggregate.t_interval([1.0]) is None


def test_means_and_shares(measured: Path) -> None:
    told = evidence.Told("mini", measured)
    found = {line.key: line for line in told.lines("a")}
    rank, success = found["reach.spearman"], found["planning.cem.success"]
    assert (rank.count, rank.least, rank.most, rank.floor) == (3, 0.90, 0.95, 0.5)
    assert rank.mean == pytest.approx(0.93) and rank.met is True
    assert success.mean == pytest.approx(0.9) and (success.low, success.high) == wilson(135, 150)
    assert success.met is False and found["seconds.train"].met is None
    assert found["seconds.whole"].mean == pytest.approx(100 / 3, rel=1e-5)
    spent = {"seconds.train": {"value": 3.0}, "seconds.evaluate": {"value": 4.0}, "reach.mae": {"value": 5.0}}
    cell = {"values": spent}
    assert aggregate.value(cell, "seconds.whole") == 7 and aggregate.value({"values": {}}, "seconds.whole") is None
    assert told.score() == "3 of 4 cells are measured; 1 of 3 bars are met."
    [(a, b, mean, low, high, count)] = aggregate.paired(told.roles["a"])
    assert (a, b, count) == ("lattice", "cem", 150) and mean == pytest.approx(0.1) and low < mean < high


def test_learning_curves_are_drawn_and_rising_is_a_number(measured: Path) -> None:
    assert not list(measured.glob("docs/*.png")) and "![" not in evidence.markdown("mini", measured)
    curve = [[100.0 * k, float(k)] for k in range(1, 9)]
    assert rise(curve) == {"return.late": {"value": 7.5, "floor": 1.5}} and rise(curve[:3]) == {}
    for seed in range(2):
        path = result.path_of(measured, "mini", f"a-{seed}")
        found = json.loads(path.read_text())
        found["curve"] = curve[: 8 - seed]
        found["values"] |= {"return.cem": {"value": 9.0}, "return.random": {"value": 1.0}}
        result.write(path, found)
    evidence.update("mini", measured)
    page = (measured / "docs/evidence.md").read_text()
    assert "![return over what was seen](evidence-mini.png)" in page
    with Image.open(measured / "docs/evidence-mini.png") as picture:
        assert picture.width > 400 and len(picture.convert("RGB").getcolors(1 << 16) or []) > 20
    for seed in range(2):  # another planner's cells, then none with a curve
        path = result.path_of(measured, "mini", f"a-{seed}")
        found = json.loads(path.read_text())
        del found["values"]["return.cem"]
        result.write(path, found)
    evidence.update("mini", measured)
    for seed in range(2):
        result.path_of(measured, "mini", f"a-{seed}").unlink()
    evidence.update("mini", measured)
    assert not list(measured.glob("docs/*.png")) and "![" not in (measured / "docs/evidence.md").read_text()


def test_a_bar_may_hang_on_the_floor_or_on_another_role(measured: Path) -> None:
    def asked(of: str, number: float, role: str = "a") -> aggregate.Line:
        entry = {"row": "reach.spearman", "roles": [role], "sign": ">=", "number": number, "source": "s", "of": of}
        (measured / "studies/mini/claims.json").write_text(json.dumps({"claims": [entry]}))
        told = evidence.Told("mini", measured)
        return next(line for line in told.lines(role) if line.key == "reach.spearman")

    assert asked("floor", 1.8).met is True and asked("floor", 1.9).met is False  # 0.9 and 0.95 against 0.93
    assert asked("b", 1.0).claim is None  # nothing to compare with yet, and the page says so
    assert "Claimed but not measured: `reach.spearman`" in evidence.markdown("mini", measured)
    assert evidence.Told("mini", measured).score() == "3 of 4 cells are measured; 0 of 1 bars are met."
    assert asked("planning.cem.success", 1.0).met is True and asked("planning.cem.success", 1.1).met is False  # 0.9
    store(measured, "b-0", 0.8, 1, 2)
    assert asked("b", 1.0).met is True and asked("b", 1.2).met is False
    assert asked("a", 0.5, "b").met is True
    assert "≥ 0.465: met" in evidence.markdown("mini", measured)
    assert "`reach.spearman` ≥ 0.5 × a" in evidence.markdown("mini", measured)
    with pytest.raises(UserError, match="of 'floors' is neither 'floor' nor a row nor a role"):
        asked("floors", 1.0)
    with pytest.raises(UserError, match="role 'a' is compared with itself"):
        asked("a", 1.0)


def test_a_stored_result_is_small_and_says_where_it_comes_from(measured: Path) -> None:
    text = result.path_of(measured, "mini", "a-0").read_text()
    found = json.loads(text)
    assert len(text) < 8000 and str(measured) not in text
    assert found["values"]["planning.cem.success"] == {"value": 0.8}  # bars are the claims' own
    assert found["values"]["seconds.train"] == {"value": 33.3333}
    assert found["packages"]["torch"] and found["machine"]["cpu"] and found["config"]["train"]["threads"] == 1


def test_missing_done_and_stale(measured: Path) -> None:
    def states() -> list[str]:
        return [cell["state"] for cell in runner.cells("mini", measured)]

    assert states() == ["done", "done", "done", "missing"]
    store(measured, "b-0", 0.5, 1, 2)
    assert states()[3] == "done"
    (measured / "studies/mini/own.txt").write_text("....\n.##.\n....\n")
    assert states()[3] == "stale"
    study = measured / "studies/mini/study.py"
    study.write_text(STUDY.replace('"eval.seed"', '"train.lr": "0.1", "eval.seed"'))
    assert states() == ["stale"] * 4
    assert "tiny in the cabin: 3 of 3 seeds †" in evidence.markdown("mini", measured)


def test_an_option_learned_since_does_not_make_a_result_stale(measured: Path) -> None:
    path = result.path_of(measured, "mini", "a-0")
    found = json.loads(path.read_text())
    del found["config"]["train"]["explode"]  # as if it had been measured before there was such an option
    result.write(path, found)
    assert runner.cells("mini", measured)[0]["state"] == "done"


def test_the_page_between_its_markers(measured: Path) -> None:
    page = measured / "docs" / "evidence.md"
    told = runner.table("mini", measured)
    text = page.read_text()
    assert text.startswith("# Evidence") and evidence.stored("mini", measured) == evidence.markdown("mini", measured)
    assert (
        "| rank correlation of d_p and true distance | 0.930 | 0.864 … 0.996 | 0.900 … 0.950 | 3 | 0.500 | ≥ 0.9: met |"
        in text
    )
    assert "≥ 95 %: missed" in text and "Claimed but not measured: `belief.velocity_r2`" in text
    assert (
        "Paired difference lattice − cem: +10.0 points" in text and text.count("is an identity: 0 on every probe") == 1
    )
    assert "missed" in told and "Not measured yet." in text
    page.write_text(text.replace("# Evidence", "# Evidence, with words of mine") + "\nbelow\n")
    store(measured, "a-0", 0.5, 1, 50)
    runner.table("mini", measured)
    assert page.read_text().startswith("# Evidence, with words of mine") and page.read_text().endswith("\nbelow\n")
    assert "missed |" in page.read_text() and evidence.stored("mini", measured) == evidence.markdown("mini", measured)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("a-{seed}", "a"), "two cells called 'a'"),
        (('"b")', '"c")'), "has the role 'c'"),
        (("STUDY = Study(", "OTHER = Study("), "defines no STUDY"),
    ],
)
def test_a_wrong_study_is_told(root: Path, change: tuple[str, str], says: str) -> None:
    (root / "studies/mini/study.py").write_text(STUDY.replace(*change))
    with pytest.raises(UserError, match=says):
        plan.load("mini", root)


def test_wrong_words_are_told(root: Path) -> None:
    with pytest.raises(UserError, match="no study called 'mimi'; did you mean 'mini'"):
        runner.run("mimi", root=root)
    with pytest.raises(UserError, match="jobs = 0"):
        runner.run("mini", 0, root=root)
    with pytest.raises(UserError, match="no cell called 'a-9'"):
        plan.load("mini", root).cell("a-9")
    result.path_of(root, "mini", "a-0").parent.mkdir()
    result.path_of(root, "mini", "a-0").write_text("{")
    with pytest.raises(UserError, match="a-0.json is no result"):
        runner.cells("mini", root)
    for wrong in ([{**CLAIMS[0], "sign": "="}], [{**CLAIMS[0], "roles": ["z"]}], [{"row": "x"}], 3):
        (root / "studies/mini/claims.json").write_text(json.dumps({"claims": wrong}))
        with pytest.raises(UserError, match="claim"):
            plan.claims("mini", plan.load("mini", root), root)


@pytest.mark.parametrize("name", plan.names(ROOT))
def test_the_evidence_is_what_the_committed_results_say(name: str) -> None:
    """Out of date? `isochrone study NAME` writes the page anew; it trains only what is missing."""
    assert evidence.stored(name, ROOT) == evidence.markdown(name, ROOT)


@pytest.mark.parametrize("name", plan.names(ROOT))
def test_every_cell_of_a_study_has_a_config(name: str) -> None:
    study = plan.load(name, ROOT)
    for cell in study.cells:
        config = study.config(cell)
        assert config.train.threads == 1 and config.train.seed == cell.seed
        result.drawing(ROOT, config)  # a map file that is named is there
    for role in study.roles:  # an ablation's losses and sizes must fit together too
        first = next(cell for cell in study.cells if cell.role == role)
        config = study.config(first)
        if not config.allow_dead_losses:
            assembled(config, ELSEWHERE if config.env.name in ("gym", "dmc") else None)
    assert plan.claims(name, study, ROOT)
    known = {cell.name for cell in study.cells}
    assert {path.stem for path in (ROOT / "studies" / name / "results").glob("*.json")} <= known
