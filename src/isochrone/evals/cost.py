"""What it costs to imagine in pixels rather than in latents. For measuring only."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

CANDIDATES, HORIZON, TRIES = 64, 12, 5


@torch.no_grad()
def cost(model: Any, clock: Callable[[], float]) -> dict[str, float]:
    """{'cost.frames': seconds of imagining with every frame drawn, over seconds of imagining and its rewards alone}.

    For models of images with rewards. Medians of `TRIES` pairs taken in turn, after one that warms up.
    """
    start = model.start(1)
    device = start.feat().device
    moves = model.action.idle((1, CANDIDATES, HORIZON), device)

    def seconds(drawn: bool) -> float:
        began = clock()
        dreamt = model.imagine(start, moves)
        last = model.rewards(dreamt)
        if drawn:
            last = model.decode(dreamt.feat().flatten(0, 2))
        last.sum().item()  # waits for the device
        return clock() - began

    told = [(seconds(False), seconds(True)) for _ in range(TRIES + 1)][1:]
    return {"cost.frames": median(drawn for _, drawn in told) / max(median(plain for plain, _ in told), 1e-9)}
