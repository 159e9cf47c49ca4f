"""Run by test_compiled.py in a process of its own, where no type checker lies over what is traced."""

from __future__ import annotations

import sys
from typing import Any

import torch
from tinymodel import generator, tiny, windows
from torch import Tensor

WAYS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "categorical": {"classes": 6, "cell": "ln_gru", "norm": "layer", "act": "silu", "initial_state": "learned"},
    "blocks": {"classes": 4, "cell": "block_gru", "norm": "rms", "act": "silu"},
}
CASES = [("rnn", "gaussian"), ("ssm", "categorical"), ("rssm", "gaussian"), ("rssm", "blocks")]
"""Every kind and every way; the other pairs differ from these in nothing that is traced anew."""


def outcome(model: Any) -> list[Tensor]:
    """Features and gradients at fixed noise."""
    roll = model.observe(windows(1, length=4)[0], {"prior", "posterior", "feat"}, generator(3))
    loss = roll.posterior.kl(roll.prior).sum(-1).mean() + roll.feat.square().mean()
    weights = [p for g in ("dynamics", "posterior", "prior") for p in model.groups()[g]]
    return [torch.Tensor(roll.feat.tolist()), *torch.autograd.grad(loss, weights)]


def main() -> int:
    """The step and the whole loop, traced by Dynamo and AOTAutograd: the worst difference from eager mode."""
    worst = 0.0
    for name, way in CASES:
        model = tiny(name, **WAYS[way])
        plain = outcome(model)
        for part, method in (("_step_fn", model.filter_step), ("_loop_fn", model.filter_loop)):
            torch._dynamo.reset()
            eager = getattr(model, part)
            setattr(model, part, torch.compile(method, backend="aot_eager", fullgraph=True))
            compiled = outcome(model)
            setattr(model, part, eager)
            for a, b in zip(compiled, plain, strict=True):
                far = float(((a - b).abs() / (1 + b.abs())).amax())
                worst = max(worst, far)
                if far > 1e-5:
                    print(f"{name} {way} {part}: differs by {far:.1e}")
                    return 1
    print(f"worst difference {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
