"""A GPU's generator samples on its GPU only, so every draw names its device: `device=` or `**rng_kwargs(rng)`."""

import ast

from tree import Source, dotted, library, source

LAYERS = {"agents", "models", "nets", "losses", "planners"}  # what may run on a GPU
DRAWS = {"rand", "randn", "randint", "randperm", "normal"}


def offences(file: Source) -> list[str]:
    """One line per torch draw that names a generator and no device."""
    out = []
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in {f"torch.{name}" for name in DRAWS}:
            given = {keyword.arg for keyword in node.keywords}
            if "generator" in given and not given & {"device", None}:  # None: ** of something
                out.append(f"{file.name}:{node.lineno}: {dotted(node.func)} with a generator but without a device")
    return out


def test_every_draw_names_its_device() -> None:
    assert [line for file in library() if file.layer in LAYERS for line in offences(file)] == []


def test_the_checker_sees_a_draw_without_a_device() -> None:
    bad = source("bad.py", "import torch\ntorch.randint(3, (), generator=rng)\n")
    good = source(
        "good.py", "import torch\ntorch.rand(3, generator=rng, device=rng.device)\ntorch.randn(3, **rng_kwargs(rng))\n"
    )
    assert len(offences(bad)) == 1
    assert offences(good) == []
