"""Verdicts on statements: by intervals over seeds, and seed by seed where the target is another role's number."""

import json
from pathlib import Path

import pytest
from ministudy import STUDY, store
from studies.harness import claims, result
from studies.harness.aggregate import StudyResults

from isochrone.core.errors import UserError

RANK, SHARE = "reach.spearman", "planning.cem.success"  # 0.93 ± 0.066 and 0.9 ± 0.25 over the seeds of role a
PAIRS = 'Cell(f"b-{seed}", "tiny", {"eval.seed": str(seed)}, seed, "b") for seed in range(3)'


def claim(target: float, statement: str = "s", **other: object) -> dict[str, object]:
    base = {"metric": RANK, "roles": ["a"], "sign": ">=", "target": target, "source": "A heading"}
    return base | ({"statement": statement} if statement else {}) | other


def verdicts(root: Path, *entries: dict[str, object]) -> list[claims.Verdict]:
    (root / "studies/mini/claims.json").write_text(json.dumps({"claims": entries}))
    return claims.verdicts_of(StudyResults("mini", root))


@pytest.mark.parametrize(
    ("word", "targets"),
    [
        (claims.HOLDS, [(RANK, 0.86)]),
        (claims.UNDECIDED, [(RANK, 0.87)]),
        (claims.NOT, [(RANK, 0.997)]),
        (claims.PARTLY, [(RANK, 0.8), (SHARE, 0.95)]),
        (claims.UNMEASURED, [("belief.velocity_r2", 0.0)]),
    ],
)
def test_the_verdict_follows_from_the_interval_over_seeds(
    measured: Path, word: str, targets: list[tuple[str, float]]
) -> None:
    [verdict] = verdicts(measured, *(claim(number, metric=metric) for metric, number in targets))
    assert verdict.word == word
    assert verdict.source == "A heading"
    assert claims.summary([verdict]) == f"1 statements: {word} 1."


def test_a_verdict_shows_its_numbers(measured: Path) -> None:
    [verdict] = verdicts(measured, claim(0.86))
    [number] = verdict.numbers
    assert number.startswith("tiny in the cabin: rank correlation of d_p and true distance 0.930 (0.900 … 0.950)")
    assert number.endswith("target ≥ 0.860")


def test_a_target_of_the_project_gets_no_verdict(measured: Path) -> None:
    assert verdicts(measured, claim(0.5, statement="")) == []


def test_a_statement_is_not_judged_before_every_seed_is_measured(measured: Path) -> None:
    result.path_of(measured, "mini", "a-2").unlink()
    assert verdicts(measured, claim(0.5))[0].word == claims.UNMEASURED


def test_a_metric_has_one_target(measured: Path) -> None:
    with pytest.raises(UserError, match="two claims on reach.spearman of 'a': a metric has one target"):
        verdicts(measured, claim(0.8), claim(0.5, statement="t"))


@pytest.mark.parametrize(("sign", "word"), [(">=", claims.HOLDS), ("<=", claims.NOT)])
def test_another_roles_number_is_compared_seed_by_seed(root: Path, sign: str, word: str) -> None:
    """Seeds differ by much, and from the same seed of the other role always by a little."""
    study = STUDY.replace('Cell("b-0", "tiny", {"env.map_file": "studies/mini/own.txt"}, 0, "b")', PAIRS)
    (root / "studies/mini/study.py").write_text(study)
    for seed, base in enumerate((0.2, 0.5, 0.8)):
        store(root, f"a-{seed}", base, 1, 2)
        store(root, f"b-{seed}", base + 0.02 + 0.001 * seed, 1, 2)
    [verdict] = verdicts(root, claim(1, roles=["b"], sign=sign, relative_to="a"))
    assert verdict.word == word
    assert "seed by seed 0.021 from it (95 %: 0.019 … 0.023)" in verdict.numbers[0]
