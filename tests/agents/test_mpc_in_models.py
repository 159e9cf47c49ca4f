"""Every planner inside every model model: legal actions, no weight moved, no gradient collected."""

import pytest
import torch

from isochrone.agents.mpc import MPC
from isochrone.core import registry
from isochrone.core.config import override
from isochrone.core.types import ActionSpec, Spec

SMALL = {"horizon": 3, "candidates": 8, "iterations": 2, "elites": 2, "restarts": 2, "expansions": 8}
KINDS = {"discrete": ActionSpec("discrete", 5, noop=4), "continuous": ActionSpec("continuous", 2)}
DISCRETE_ONLY = {"gumbel", "astar"}
PAIRS = [(n, k) for n in registry.names("planner") for k in KINDS if k == "discrete" or n not in DISCRETE_ONLY]


def small(cls):
    return override(cls.Config(), {k: v for k, v in SMALL.items() if hasattr(cls.Config(), k)})


@pytest.mark.parametrize("space", ["p", "z", "mixed"])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
@pytest.mark.parametrize("model", [m for m in registry.names("model") if hasattr(registry.get("model", m), "distance")])
def test_it_acts(model, name, kind, space, rng):
    action, cls = KINDS[kind], registry.get("model", model)
    model = cls(cls.Config(), Spec({"image": (3, 64, 64)}, action))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    planner = registry.get("planner", name)
    mpc = MPC(model, MPC.Config(small(planner), objective=space))
    look, goal = (torch.randint(256, (2, 3, 64, 64), generator=rng, dtype=torch.uint8) for _ in range(2))
    carry = mpc.start(2, {"image": goal}, rng)
    for _ in range(2):
        chosen, carry, info = mpc.act({"image": look}, carry)
        assert chosen.shape == (2, action.size)
        assert action.contains(chosen)
        assert info["cost"].isfinite().all()
        assert info["evaluations"] > 0
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
