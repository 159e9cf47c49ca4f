"""A tabular model that is exactly right, so that every metric has a known answer; and ways to break it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.types import Rollout, Struct
from isochrone.envs.whitebox import WhiteBox, WhiteBoxConfig
from isochrone.envs.whitebox.maps import read
from isochrone.evals.context import Context, EvalConfig

# Two rooms, a wall, a one-way door, a two-way pipe A and a one-way pipe b -> B.
MAP = """
.....#...
.A...#.b.
.....>...
.....#...
##.####..
.....#...
.B...#.A.
.....#...
"""


@dataclass(frozen=True)
class TableState(Struct):
    z: Tensor
    h: Tensor
    p: Tensor
    fresh: Tensor

    def feat(self) -> Tensor:
        return torch.cat([self.z, self.h], -1)


class Perfect(nn.Module):
    """z = position in cells, h = (velocity, clock or 0), p_i(x) = d(x, i) and d_p = max_i (p_i(a) - p_i(b))+: exact.

    `wrong` adds to d_p; `blind` makes d_p symmetric; `clock` lets h count; `stuck` makes imagination stand still;
    `lost` gives z at random.
    """

    provides = frozenset({"z", "h", "p"})
    modes = frozenset()
    is_stochastic = False

    def __init__(self, env: WhiteBox, **broken: float) -> None:
        super().__init__()
        self.env, self.broken = env, broken
        self.table = env.table().clone()
        self.table[~torch.isfinite(self.table)] = 1e4
        self.action = env.spec.action

    def encode_image(self, image: Tensor) -> Tensor:
        box = (image == 255).all(-3).flatten(-2).float()  # (..., Y*X)
        at = box.argmax(-1)
        z = torch.stack([at % 64, at // 64], -1) / 4.0
        if "lost" in self.broken:
            z = torch.sin(z * 997.0 + z.flip(-1) * 331.0)
        return z

    def decode(self, state: TableState) -> Tensor:
        flat = state.z.reshape(-1, 2)
        return (self.env.draw(self.env.at(flat * 4)).float() / 255).reshape(*state.z.shape[:-1], 3, 64, 64)

    def pose(self, z: Tensor) -> Tensor:
        where = self.env.at((z * 4).reshape(-1, 2))
        return self.table[self.env.index(where).clamp(min=0)].reshape(*z.shape[:-1], -1)

    def _state(self, z: Tensor, velocity: Tensor, age: Tensor) -> TableState:
        counted = age if "clock" in self.broken else torch.zeros_like(age)
        return TableState(z, torch.cat([velocity, counted[..., None]], -1), self.pose(z), torch.zeros_like(age).bool())

    def start(self, batch: int) -> TableState:
        zeros = torch.zeros(batch, 2)
        empty = torch.zeros(batch, 3), torch.zeros(batch, self.table.shape[1]), torch.ones(batch, dtype=torch.bool)
        return TableState(zeros, *empty)

    def update(self, state: TableState, action: Tensor, obs: dict[str, Tensor]) -> TableState:
        z = self.encode_image(obs["image"])
        before = self.env.at(state.z * 4).replace(velocity=state.h[:, :2])
        velocity = torch.where(state.fresh[:, None], 0.0, self.env.transition(before, action).velocity)
        return self._state(z, velocity, torch.where(state.fresh, 0.0, state.h[:, 2] + 1))

    def step(self, state: TableState, action: Tensor) -> TableState:
        if "stuck" in self.broken:
            return state
        shape = state.z.shape[:-1]
        box = self.env.at((state.z * 4).reshape(-1, 2)).replace(velocity=state.h[..., :2].reshape(-1, 2))
        after = self.env.transition(box, action.reshape(-1, action.shape[-1]))
        z, velocity = (after.position / 4).reshape(*shape, 2), after.velocity.reshape(*shape, 2)
        return self._state(z, velocity, state.h[..., 2] + 1)

    def imagine(self, state: TableState, actions: Tensor) -> TableState:
        n = actions.shape[1]
        now = state.map(lambda x: x[:, None].expand(x.shape[0], n, *x.shape[1:]))
        states = []
        for k in range(actions.shape[2]):
            now = self.step(now, actions[:, :, k])
            states.append(now)
        return TableState.stack(states, dim=2)

    def metric(self, a: Tensor, b: Tensor) -> Tensor:
        d = (a - b).clamp(min=0).amax(-1)
        if "blind" in self.broken:
            d = torch.maximum(d, (b - a).clamp(min=0).amax(-1))
        return d + self.broken.get("wrong", 0.0)

    def distance(self, a: TableState, b: TableState, space: str = "p") -> Tensor:
        return self.metric(a.p, b.p) if space == "p" else (a.z - b.z).norm(dim=-1)

    def disagreement(self, a: TableState, b: TableState) -> Tensor:
        return self.distance(a, b, "z") / (1 + self.distance(a, b, "p"))

    def observe(self, batch, needs, rng=None) -> Rollout:
        z = self.encode_image(batch.obs["image"])
        return Rollout(batch, {"z": z, "p": self.pose(z)}, rng)


class Greedy:
    """Takes the action after which the model's d_p to the goal is least."""

    name, needs_goal = "greedy", True

    def __init__(self, model: Perfect) -> None:
        self.model = model

    def start(self, batch: int, goal: dict[str, torch.Tensor], rng: Any = None) -> dict[str, torch.Tensor]:
        return {"goal": self.model.pose(self.model.encode_image(goal["image"]))}

    def restart(self, carry: Any, rows: torch.Tensor, goal: Any = None) -> Any:
        return carry

    def act(
        self, obs: dict[str, torch.Tensor], carry: Any, mode: str = "eval"
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        size, count = self.model.action.size, len(carry["goal"])
        state = self.model.update(self.model.start(count), torch.eye(size)[[0] * count], obs)
        tries = torch.eye(size)[None, :, None].expand(count, -1, -1, -1)
        after = self.model.imagine(state, tries).p[:, :, 0]  # (B, 5, P)
        best = self.model.metric(after, carry["goal"][:, None]).argmin(1)
        return torch.eye(size)[best], carry, {"evaluations": size}


def make_env(drawing: str = MAP, envs: int = 12, **options: object) -> WhiteBox:
    """A white box on a drawing, through the same reader that reads a user's map file."""
    import tempfile
    from pathlib import Path

    read(drawing)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.txt"
        path.write_text(drawing)
        return WhiteBox(replace(WhiteBoxConfig(), map_file=str(path), **options), envs)


def compute(
    family: str, model: Any, batch: Any = None, truth: Any = None, seed: int = 0, horizon: int = 16, **more: Any
) -> Mapping[str, Any]:
    """What one family of metrics returns, named without the family."""
    rng = torch.Generator().manual_seed(seed)
    context = Context(model, EvalConfig(horizon=horizon), rng, batch, truth, **more)
    return registry.get("metric", family)(context)
