"""RNN, SSM and RSSM are one family: naming another keeps what a recipe told."""

from __future__ import annotations

from isochrone.core import registry
from isochrone.workflows import build


def test_a_part_of_the_same_family_keeps_what_was_told() -> None:
    """`--model ssm` on a recipe with small nets must not bring back the large defaults."""
    told = build.recipe("bouncer").model
    for name in ("ssm", "rnn", "rssm"):
        model = build.recipe("bouncer", {"model": name}).model
        assert model.name == name
        assert {f: getattr(model, f) for f in ("stoch", "hidden", "encoder", "decode_rows")} == {
            f: getattr(told, f) for f in ("stoch", "hidden", "encoder", "decode_rows")
        }
    assert build.recipe("bouncer", {"model": "ssm", "model.stoch": "3"}).model.stoch == 3
    assert build.recipe("bouncer", {"model": "zhp"}).model == registry.get("model", "zhp").Config()
