"""Whether a claim of the notes holds: by intervals over seeds, seed by seed beside another role; the committed page."""

import json
from pathlib import Path

import pytest
from ministudy import STUDY, store
from studies.harness import claims as verdicts
from studies.harness import evidence, result
from tree import ROOT

from isochrone.core.errors import UserError

PAIRS = 'Cell(f"b-{seed}", "tiny", {"eval.seed": str(seed)}, seed, "b") for seed in range(3)'


def test_which_claims_of_the_notes_hold(measured: Path) -> None:
    """By the interval over seeds: on the claimed side, on the other, or across; some numbers of a claim: partly."""
    rank, share = "reach.spearman", "planning.cem.success"  # 0.93 +- 0.066, and 0.9 +- 0.25
    said = [("yes", rank, 0.86), ("maybe", rank, 0.87), ("no", rank, 0.997), ("some", rank, 0.8), ("some", share, 0.95)]
    entries = [
        {"row": row, "roles": ["a"], "sign": ">=", "number": n, "source": f"seeds/004: {name}"} for name, row, n in said
    ]
    more = [
        {"row": "belief.velocity_r2", "roles": ["a"], "sign": ">=", "number": 0, "source": "seeds/002, eq. 1: unseen"},
        {"row": "seconds.train", "roles": ["a"], "sign": "<=", "number": 9, "source": "the project's bar: quick"},
    ]

    def page(claims: list[dict[str, object]]) -> str:
        (measured / "studies/mini/claims.json").write_text(json.dumps({"claims": claims}))
        evidence.update("mini", measured)
        return (measured / "docs/evidence.md").read_text()

    told = {"yes": "holds", "maybe": "undecided", "no": "does not hold", "some": "holds partly"}
    for name, word in told.items():
        text = page([e for e in entries if str(e["source"]).endswith(f": {name}")] + more)
        start = f"| {name} | **{word}** | tiny in the cabin: rank correlation of d_p and true distance 0.930 (0.9"
        assert start in text and f"2 claims: {word} 1, not measured 1." in text and "quick | " not in text
        assert "| unseen | **not measured** |  | seeds/002, eq. 1 | mini |" in text
        assert evidence.stored(evidence.CLAIMS, measured) == verdicts.markdown(measured)
        assert text.index("<!-- claims -->") < text.index("<!-- study:mini -->") and text.count("<!-- claims -->") == 1
    seventh = {**entries[0], "number": 0.5}
    result.path_of(measured, "mini", "a-2").rename(measured / "away.json")  # a seed is missing: nothing is said yet
    assert "| yes | **not measured** | tiny in the cabin" in page([seventh])
    (measured / "away.json").rename(result.path_of(measured, "mini", "a-2"))
    with pytest.raises(UserError, match="two claims on reach.spearman of 'a': a row has one bar"):
        page([entries[0], seventh])
    assert "claims -->" not in page(more[1:]) and evidence.stored(evidence.CLAIMS, measured) is None


@pytest.mark.parametrize("sign", [">=", "<="])
def test_what_another_role_has_is_compared_seed_by_seed(root: Path, sign: str) -> None:
    """Seeds that differ much, and from their own counterpart always by a little."""
    study = STUDY.replace('Cell("b-0", "tiny", {"env.map_file": "studies/mini/own.txt"}, 0, "b")', PAIRS)
    (root / "studies/mini/study.py").write_text(study)
    entry = {"row": "reach.spearman", "roles": ["b"], "sign": sign, "number": 1, "of": "a", "source": "seeds/004: c"}
    (root / "studies/mini/claims.json").write_text(json.dumps({"claims": [entry]}))
    for seed, base in enumerate((0.2, 0.5, 0.8)):
        store(root, f"a-{seed}", base, 1, 2)
        store(root, f"b-{seed}", base + 0.02 + 0.001 * seed, 1, 2)
    [found] = verdicts.of_study(evidence.Told("mini", root))
    assert found.word == ("holds" if sign == ">=" else "does not hold")
    assert "seed by seed 0.021 from it (95 %: 0.019 … 0.023)" in found.numbers[0]


def test_the_verdicts_are_what_the_committed_results_say() -> None:
    assert evidence.stored(evidence.CLAIMS, ROOT) == verdicts.markdown(ROOT)
