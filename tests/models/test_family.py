"""RNN, SSM and RSSM are one family: naming another keeps what a recipe recipe."""

from __future__ import annotations

from isochrone.core import registry
from isochrone.workflows.factory import make_config


def test_a_component_of_the_same_family_keeps_its_settings() -> None:
    """`--model ssm` on a recipe with small nets must not bring back the large defaults."""
    recipe = make_config("bouncer").model
    for name in ("ssm", "rnn", "rssm"):
        model = make_config("bouncer", {"model": name}).model
        assert model.name == name
        assert {f: getattr(model, f) for f in ("stoch", "hidden", "encoder", "decode_rows")} == {
            f: getattr(recipe, f) for f in ("stoch", "hidden", "encoder", "decode_rows")
        }
    assert make_config("bouncer", {"model": "ssm", "model.stoch": "3"}).model.stoch == 3
    assert make_config("bouncer", {"model": "zhp"}).model == registry.get("model", "zhp").Config()
