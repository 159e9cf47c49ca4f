"""Warm start: yesterday's plan, moved on by the actions already taken.

The agent shifts (it knows how many actions it took); a planner only fits the guess it is given to its own horizon.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Plan


def shifted(plan: Plan, by: int) -> Plan:
    """The plan as seen `by` actions later; the freed tail repeats the last action. Its trace is dropped.

    Repeating serves both cases: on the way to a far goal the tail goes on, after an arrival it stays idle.
    """
    if by < 0:
        raise UserError(f"shifted: by = {by}: a plan can only be moved forward")
    horizon = plan.actions.shape[1]
    index = torch.arange(by, by + horizon, device=plan.actions.device).clamp(max=horizon - 1)
    return Plan(plan.actions[:, index], plan.cost)


def fitted(
    warm: Plan | None, action: ActionSpec, batch: int, horizon: int, device: torch.device
) -> Float[Tensor, "B H A"] | None:
    """The guess for the next `horizon` steps: cut, or continued with its last action. None stays None."""
    if warm is None:
        return None
    rows, steps, size = warm.actions.shape
    if rows != batch or size != action.size or steps == 0:
        raise UserError(
            f"warm plan has shape {(rows, steps, size)}; this problem needs {batch} rows, at least one step, and "
            f"actions of size {action.size}: pass the last plan of the same agent, or warm=None"
        )
    index = torch.arange(horizon, device=warm.actions.device).clamp(max=steps - 1)
    return action.project(warm.actions[:, index]).to(device)
