"""Rollouts of the prior from many posteriors at once, shared by every overshooting loss. (PlaNet, eq. 7)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import Batch, Struct
from isochrone.models.openloop import gather_rows
from isochrone.nets.gathered import gathering


@dataclass(frozen=True)
class Overshoot(Struct):
    """Depth d = 1..D from each start: the prior of row start + d, from the posterior at `start` and the actions since.

    `valid` is False where the episode or the window ends before that row.
    """

    start: Int64[Tensor, "B S"]
    rows: Int64[Tensor, "B S D"]  # the rows that are foretold, kept inside the window
    valid: Bool[Tensor, "B S D"]
    prior: Any  # belief (B, S, D, ...)
    feat: Float[Tensor, "B S D F"]  # features of the imagined states

    def target(self, value: Any) -> Any:
        """A field (B, T, ...), or a belief, at the foretold rows: (B, S, D, ...)."""
        return value.map(self.target) if isinstance(value, Struct) else gather_rows(value, self.rows)


def starts_of(batch: Batch, count: int, rng: torch.Generator | None) -> Int64[Tensor, "B S"]:
    """Rows to start from: `count` drawn per window, or every row but the last (count = 0)."""
    b, length = batch.shape
    device = batch.action.device
    if not count:
        return torch.arange(length - 1, device=device).expand(b, -1)
    if rng is None:
        raise UserError("overshooting draws its starts (model.starts > 0): give observe an rng")
    return torch.randint(length - 1, (b, count), generator=rng, device=rng.device).to(device)


def rows_after(
    batch: Batch, start: Int64[Tensor, "B S"], depth: int
) -> tuple[Int64[Tensor, "B S D"], Bool[Tensor, "B S D"]]:
    """The rows start + 1 .. start + D, and whether each lies in the window and in the start's episode."""
    length = batch.shape[1]
    rows = start[..., None] + torch.arange(1, depth + 1, device=start.device)  # (B, S, D)
    inside, rows = rows < length, rows.clamp_max(length - 1)
    joint = gather_rows(batch.connected(1), rows - 1)  # row - 1 and row are neighbours in one episode
    return rows, (inside & joint).cumprod(-1).bool()


def overshoot(
    model: Any, h: Float[Tensor, "B T D"], z: Float[Tensor, "B T S"], batch: Batch, rng: torch.Generator | None
) -> Overshoot:
    """Imagine `model.config.overshoot` steps with the actions that were taken; all starts run as one batch."""
    depth, length = model.config.overshoot, batch.shape[1]
    if not 0 < depth < length:
        raise UserError(
            f"model.overshoot = {depth}: the overshooting losses need 1 to {length - 1} steps in windows of "
            f"{length} rows; change it or train.length"
        )
    start = starts_of(batch, model.config.starts, rng)  # (B, S)
    rows, valid = rows_after(batch, start, depth)  # (B, S, D)
    moves = gather_rows(batch.action, rows - 1).flatten(0, 1).transpose(0, 1)  # (D, B S, A)
    ahead = model.dynamics.ahead(moves.to(h.dtype)).unbind()
    noise = model.noise(depth, moves.shape[1], rng=rng)
    h, z = (gather_rows(x, start).flatten(0, 1) for x in (h, z))  # (B S, ...)
    feats, raws = [], []
    with gathering(model.dynamics, model.prior):
        for k in range(depth):
            belief = model.dynamics(h, z, ahead[k])
            raw = model.prior(belief)
            z = model.latent.sample(raw, None if noise is None else noise[k])
            h = belief[:, : model.memory]
            feats.append(torch.cat([z, h], -1))
            raws.append(raw)
    feat, raw = (torch.stack(x, 1).unflatten(0, tuple(start.shape)) for x in (feats, raws))
    return Overshoot(start, rows, valid, model.latent.belief(raw), feat)
