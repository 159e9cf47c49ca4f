"""A GPU's generator draws on its GPU only, so every draw says where: `device=` or `**rng_kwargs(rng)`."""

import ast

from tree import Source, dotted, library, source

FLOORS = {"agents", "models", "nets", "objectives", "planners"}  # what may lie on a GPU
DRAWS = {"rand", "randn", "randint", "randperm", "normal"}


def offences(file: Source) -> list[str]:
    """One line per torch draw that names a generator and no device."""
    out = []
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in {f"torch.{name}" for name in DRAWS}:
            told = {keyword.arg for keyword in node.keywords}
            if "generator" in told and not told & {"device", None}:  # None: ** of something
                out.append(f"{file.name}:{node.lineno}: {dotted(node.func)} with a generator but without a device")
    return out


def test_every_draw_says_where() -> None:
    assert [line for file in library() if file.floor in FLOORS for line in offences(file)] == []


def test_the_rule_sees_what_it_should() -> None:
    bad = source("bad.py", "import torch\ntorch.randint(3, (), generator=rng)\n")
    good = source(
        "good.py", "import torch\ntorch.rand(3, generator=rng, device=rng.device)\ntorch.randn(3, **rng_kwargs(rng))\n"
    )
    assert len(offences(bad)) == 1 and offences(good) == []
