"""From results to pages: means over seeds, intervals, pooled shares, targets, stale results; the committed pages."""

import json
from pathlib import Path

import pytest
from ministudy import CLAIMS, STUDY, store
from PIL import Image
from studies.__main__ import main
from studies.harness import aggregate, figures, page, result, runner, study
from studies.harness.aggregate import StudyResults
from studies.harness.cell import late_return
from tree import ROOT

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Spec
from isochrone.evals.stats import difference_over_seeds, share_over_seeds
from isochrone.workflows.train import build_all

pytestmark = pytest.mark.slow

PIXELS = Spec({"image": (3, 64, 64)}, ActionSpec("continuous", 1))
"""In place of an environment whose package may not be installed."""


def text_of(root: Path) -> str:
    return page.study_page(StudyResults("mini", root), root)


def change(root: Path, cell: str, **values: object) -> None:
    """Add or replace top-level entries of a stored result; `values` are merged."""
    path = result.path_of(root, "mini", cell)
    stored = json.loads(path.read_text())
    stored["values"] |= values.pop("values", {})  # type: ignore[arg-type]
    result.write(path, stored | values)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_lines_average_seeds_and_shares(measured: Path) -> None:
    results = StudyResults("mini", measured)
    lines = {line.key: line for line in results.lines("a")}
    rank, success = lines["reach.spearman"], lines["planning.cem.success"]
    assert (rank.count, rank.least, rank.most, rank.baseline) == (3, 0.90, 0.95, 0.5)
    assert rank.mean == pytest.approx(0.93)
    assert rank.met is True
    assert success.mean == pytest.approx(0.9)
    assert (success.low, success.high) == share_over_seeds([40, 50, 45], [50, 50, 50])
    assert success.met is False
    assert lines["seconds.train"].met is None
    assert lines["seconds.whole"].mean == pytest.approx(100 / 3, rel=1e-5)
    assert results.score() == "3 of 4 cells are measured; 1 of 3 targets are met."


def test_all_seconds_are_summed() -> None:
    seconds = {"seconds.train": {"value": 3.0}, "seconds.evaluate": {"value": 4.0}, "reach.mae": {"value": 5.0}}
    assert aggregate.value({"values": seconds}, "seconds.whole") == 7
    assert aggregate.value({"values": {}}, "seconds.whole") is None


def test_paired_difference_of_two_planners(measured: Path) -> None:
    [(a, b, mean, ends, count)] = aggregate.paired(StudyResults("mini", measured).roles["a"])
    assert (a, b, count) == ("astar", "cem", 150)
    assert mean == pytest.approx(0.1)
    assert ends == difference_over_seeds([10, 0, 5], [0, 0, 0], [50, 50, 50])
    assert aggregate.paired(StudyResults("mini", measured).roles["a"][:1])[0][3] is None  # one seed has no spread


def test_seeds_that_are_equal_have_no_interval(measured: Path) -> None:
    lines = {line.key: line for line in StudyResults("mini", measured).lines("a")}
    assert lines["seconds.train"].interval == ""
    assert lines["planning.cem.success"].interval


def test_withdrawn_metrics_are_named_and_not_shown(measured: Path) -> None:
    (measured / "studies/mini/study.py").write_text(
        STUDY.replace("    figure=", '    withdrawn={"reach.spearman": "it says too much."},\n    figure=')
    )
    results, text = StudyResults("mini", measured), text_of(measured)
    assert "reach.spearman" not in {line.key for line in results.lines("a")}
    assert "- `reach.spearman`: it says too much." in text
    assert "rank correlation" not in text
    assert results.score() == "3 of 4 cells are measured; 0 of 2 targets are met."
    assert "withdrawn: reach.spearman" in page.terminal("mini", measured)
    assert "Withdrawn: `reach.spearman`." in page.index(measured)


def test_late_return() -> None:
    curve = [[100.0 * k, float(k)] for k in range(1, 9)]
    assert late_return(curve) == {"learning_curve.late": {"value": 7.5, study.BASELINE: 1.5}}
    assert late_return(curve[:3]) == {}


def test_a_target_may_be_relative(measured: Path) -> None:
    def line(base: str, target: float, role: str = "a") -> aggregate.Line:
        entry = {"metric": "reach.spearman", "roles": [role], "sign": ">=", "target": target, "source": "s"}
        (measured / "studies/mini/claims.json").write_text(json.dumps({"claims": [entry | {"relative_to": base}]}))
        return next(x for x in StudyResults("mini", measured).lines(role) if x.key == "reach.spearman")

    assert line(study.BASELINE, 1.8).met is True  # 1.8 × 0.5 against 0.93
    assert line(study.BASELINE, 1.9).met is False
    assert line("b", 1.0).claim is None  # nothing to compare with yet, and the page says so
    assert "Claimed but not measured: `reach.spearman`" in text_of(measured)
    assert StudyResults("mini", measured).score() == "3 of 4 cells are measured; 0 of 1 targets are met."
    assert line("planning.cem.success", 1.0).met is True
    assert line("planning.cem.success", 1.1).met is False
    store(measured, "b-0", 0.8, 1, 2)
    assert line("b", 1.0).met is True
    assert line("b", 1.2).met is False
    assert line("a", 0.5, "b").met is True
    assert "≥ 0.465: met" in text_of(measured)
    assert "`reach.spearman` ≥ 0.5 × a" in text_of(measured)
    with pytest.raises(UserError, match="relative_to 'baselines' is neither"):
        line("baselines", 1.0)
    with pytest.raises(UserError, match="role 'a' is compared with itself"):
        line("a", 1.0)


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_stored_result_is_small_and_names_its_origin(measured: Path) -> None:
    text = result.path_of(measured, "mini", "a-0").read_text()
    stored = json.loads(text)
    assert len(text) < 8000
    assert str(measured) not in text
    assert stored["values"]["planning.cem.success"] == {"value": 0.8}  # targets belong to the claims
    assert stored["values"]["seconds.train"] == {"value": 33.3333}
    assert stored["packages"]["torch"]
    assert stored["machine"]["cpu"]
    assert stored["config"]["train"]["threads"] == 1


def test_missing_done_and_stale(measured: Path) -> None:
    def states() -> list[str]:
        return [cell["state"] for cell in runner.cells("mini", measured)]

    assert states() == ["done", "done", "done", "missing"]
    store(measured, "b-0", 0.5, 1, 2)
    assert states()[3] == "done"
    (measured / "studies/mini/own.txt").write_text("....\n.##.\n....\n")
    assert states()[3] == "stale"
    (measured / "studies/mini/study.py").write_text(STUDY.replace('"eval.seed"', '"train.steps": "3", "eval.seed"'))
    assert states() == ["stale"] * 4
    assert "tiny in the cabin: 3 of 3 seeds †" in text_of(measured)


def test_a_newer_option_does_not_make_a_result_stale(measured: Path) -> None:
    path = result.path_of(measured, "mini", "a-0")
    stored = json.loads(path.read_text())
    del stored["config"]["train"]["log_every"]  # as if it had been measured before there was such an option
    result.write(path, stored)
    assert runner.cells("mini", measured)[0]["state"] == "done"


# --- pages ------------------------------------------------------------------------------------------------------------


def test_the_page_of_a_study(measured: Path) -> None:
    text, terminal = text_of(measured), runner.table("mini", measured)
    line = (
        "| rank correlation of d_p and true distance | 0.930 | 0.864 … 0.996 | 0.900 … 0.950 | 3 | 0.500 | ≥ 0.9: met |"
    )
    assert line in text
    assert "≥ 95 %: missed" in text
    assert "Claimed but not measured: `belief.velocity_r2`" in text
    assert "Paired difference astar − cem: +10.0 points" in text
    assert text.count("is an identity: 0 on every probe") == 1
    assert "Not measured yet." in text
    assert "missed" in terminal
    assert "![a miniature study](mini.png)" in page.page_path(measured, "mini").read_text()


def test_the_index_has_the_finding_the_figure_and_a_link(measured: Path) -> None:
    runner.table("mini", measured)
    index = page.index_path(measured).read_text()
    assert "The rank correlation is 0.930." in index
    assert "![a miniature study](evidence/mini.png)" in index
    assert "(evidence/mini.md)" in index
    assert "Statements" not in index  # no claim of the miniature study is one
    with pytest.raises(UserError, match="the finding names no role 'c'"):
        page.fill("{c:reach.mae}", StudyResults("mini", measured))


def test_figures_follow_the_results(measured: Path) -> None:
    runner.table("mini", measured)
    with Image.open(figures.path_of(measured, "mini")) as image:
        assert image.width > 400
        assert len(image.convert("RGB").getcolors(1 << 16) or []) > 20
    (measured / "studies/mini/study.py").write_text(STUDY.replace("    figure=", "    # figure="))
    runner.table("mini", measured)
    assert not figures.path_of(measured, "mini").exists()  # no cell has a learning curve
    curve = [[100.0 * k, float(k)] for k in range(1, 9)]
    for seed in range(2):
        values = {"return.cem": {"value": 9.0}, "return.random": {"value": 1.0}}
        change(measured, f"a-{seed}", curve=curve[: 8 - seed], values=values)
    runner.table("mini", measured)
    assert figures.path_of(measured, "mini").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("a-{seed}", "a"), "two cells called 'a'"),
        (('"b")', '"c")'), "has the role 'c'"),
        (("STUDY = Study(", "OTHER = Study("), "defines no STUDY"),
    ],
)
def test_a_wrong_study_is_an_error(root: Path, edit: tuple[str, str], message: str) -> None:
    (root / "studies/mini/study.py").write_text(STUDY.replace(*edit))
    with pytest.raises(UserError, match=message):
        study.load("mini", root)


def test_wrong_names_and_files_are_errors(root: Path) -> None:
    with pytest.raises(UserError, match="no study called 'mimi'; did you mean 'mini'"):
        runner.run("mimi", root)
    with pytest.raises(UserError, match="jobs = 0"):
        runner.run("mini", root, 0)
    with pytest.raises(UserError, match="no cell called 'a-9'"):
        study.load("mini", root).cell("a-9")
    result.path_of(root, "mini", "a-0").parent.mkdir()
    result.path_of(root, "mini", "a-0").write_text("{")
    with pytest.raises(UserError, match="a-0.json is not a result"):
        runner.cells("mini", root)
    for wrong in ([{**CLAIMS[0], "sign": "="}], [{**CLAIMS[0], "roles": ["z"]}], [{"metric": "x"}], 3):
        (root / "studies/mini/claims.json").write_text(json.dumps({"claims": wrong}))
        with pytest.raises(UserError, match="claim"):
            study.load_claims("mini", study.load("mini", root), root)


def test_the_command_line(measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(measured)
    assert main([]) == 0
    assert capsys.readouterr().out == "mini\n"
    assert main(["mini", "--cells"]) == 0
    assert capsys.readouterr().out.endswith("missing b-0\n")
    assert main(["mini", "--cells", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"cell": "a-0", "state": "done"}
    assert main(["mimi", "--table"]) == 2
    assert "did you mean 'mini'" in capsys.readouterr().err


# --- the committed studies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", study.names(ROOT))
def test_the_committed_page_matches_the_results(name: str) -> None:
    """Out of date? `python -m studies NAME --table` writes it again."""
    assert page.page_path(ROOT, name).read_text() == page.study_page(StudyResults(name, ROOT), ROOT)


@pytest.mark.slow
def test_the_committed_index_matches_the_results() -> None:
    assert page.index_path(ROOT).read_text() == page.index(ROOT)


@pytest.mark.parametrize("name", study.names(ROOT))
def test_every_study_has_a_figure_and_claims_and_only_results_of_its_cells(name: str) -> None:
    this = study.load(name, ROOT)
    assert figures.path_of(ROOT, name).exists()
    assert study.load_claims(name, this, ROOT)
    stored = {path.stem for path in (ROOT / "studies" / name / "results").glob("*.json")}
    assert stored <= {cell.name for cell in this.cells}


@pytest.mark.parametrize("name", study.names(ROOT))
def test_every_cell_has_a_valid_config(name: str) -> None:
    this = study.load(name, ROOT)
    for cell in this.cells:
        config = this.config(cell)
        assert config.train.threads == 1
        assert config.train.seed == cell.seed
        result.drawing(ROOT, config)  # its map file exists
    for role in this.roles:  # the losses and sizes of an ablation must fit together too
        config = this.config(next(cell for cell in this.cells if cell.role == role))
        if not config.allow_dead_losses:
            build_all(config, PIXELS if config.env.name in ("gym", "dmc") else None)
