"""Can one plan here? Held-out start and goal pairs, solved ones dropped, every success beside its baselines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isochrone.agents.baselines import NoOp, Random, Replay
from isochrone.core.errors import UserError
from isochrone.core.protocols import Agent
from isochrone.core.types import Struct
from isochrone.evals.ground_truth import tried
from isochrone.evals.model_access import generator
from isochrone.evals.stats import bootstrap_mean, wilson

HOLD = 3
"""Steps played after a goal is first reached, to see whether the agent stays."""


@dataclass(frozen=True)
class PlanPairs(Struct):
    """P starts and goals, each reachable and none solved at the start."""

    start: Any  # State[P]
    goal: Any  # State[P]
    shortest: Float[Tensor, " P"]  # fewest actions
    dropped: int = 0  # drawn, but solved before the first action


@dataclass(frozen=True)
class Outcome:
    """What one agent did on every pair. Counts are raw environment steps."""

    any: np.ndarray  # (P,) bool: was at the goal at some time
    end: np.ndarray  # (P,) bool: was there when the run ended (budget spent, or HOLD steps after reaching it)
    steps: np.ndarray  # (P,) steps until first there; the budget where never
    ratio: np.ndarray  # (P,) steps / shortest; NaN where never there
    path: np.ndarray  # (P, L+1, 2) px of every step; NaN after the run
    evaluations: float  # imagined steps per pair, as told by the agent (NaN if it does not tell)
    seconds: float  # of acting, all pairs (NaN without a clock)


def plan_pairs(env: Any, count: int, rng: torch.Generator) -> PlanPairs:
    """Draw `count` different ordered pairs of places, uniformly among those whose goal can be reached.

    Pairs whose start is already at the goal's place are dropped and counted. Fewer than `count` come back where the
    map has no more. Raises UserError when no place can be reached from another.
    """
    if count < 1:
        raise UserError(f"pairs = {count}: planning needs at least 1")
    places, table = env.places(), env.table().cpu()
    reachable = torch.isfinite(table).flatten().nonzero()[:, 0]
    order = reachable[torch.randperm(len(reachable), generator=rng, device=rng.device).cpu()]
    a, b = order // len(table), order % len(table)
    solved = (table[a, b] <= 0) | at_goal(places[a], places[b], tolerance(env))
    taken = (~solved).nonzero()[:count, 0]
    if not len(taken):
        raise UserError("no place of this map can be reached from another: draw a map with at least two joined cells")
    dropped = int(solved[: int(taken[-1]) + 1].sum())
    return PlanPairs(places[a[taken]], places[b[taken]], table[a[taken], b[taken]].float(), dropped)


def tolerance(env: Any) -> float:
    """Pixels within which the box is at the goal: half a pixel for discrete moves, half a 4 px cell otherwise."""
    return 0.5 if env.spec.action.discrete else 2.0


def at_goal(state: Any, goal: Any, within: float) -> Tensor:
    """(B,) bool."""
    return (state.position - goal.position).abs().amax(-1) <= within


@torch.no_grad()
def evaluate_agent(
    env: Any,
    agent: Agent,
    pairs: PlanPairs,
    budget: int,
    within: float | None = None,
    clock: Callable[[], float] | None = None,
    device: torch.device | str = "cpu",
    rng: torch.Generator | None = None,
) -> Outcome:
    """Play every pair as one batch on the true physics; runs that are over leave the batch.

    Args:
        agent: an Agent. Goal and observations hold 'image', uint8 (P, C, Y, X). info['evaluations'], imagined steps per
            row, is summed where the agent reports it.
        budget: raw environment steps per pair.
        within: goal tolerance in px (default `tolerance(env)`).
        clock: seconds, e.g. time.perf_counter; without one `seconds` is NaN.
    """
    if budget < 1:
        raise UserError(f"budget = {budget}: an agent needs at least 1 step")
    within = tolerance(env) if within is None else within
    count = len(pairs.shortest)
    reached, ended = torch.full((count,), -1), torch.zeros(count, dtype=torch.bool)
    path = torch.full((count, budget + 1, 2), float("nan"))
    path[:, 0] = pairs.start.position
    rows, state, goal = torch.arange(count), pairs.start, pairs.goal
    began = clock() if clock else 0.0
    carry, evaluations = agent.start(count, {"image": env.draw(goal).to(device)}, rng), []
    seconds = clock() - began if clock else 0.0
    for step in range(1, budget + 1):
        began = clock() if clock else 0.0
        action, carry, info = agent.act({"image": env.draw(state).to(device)}, carry, "eval")
        seconds += clock() - began if clock else 0.0
        evaluations.append(_per_row(info.get("evaluations"), len(rows)))
        state = env.transition(state, action.to(pairs.shortest.device))
        there = at_goal(state, goal, within)
        path[rows, step] = state.position
        ended[rows] = there
        reached[rows] = torch.where((reached[rows] < 0) & there, step, reached[rows])
        over = (reached[rows] >= 0) & (step - reached[rows] >= HOLD)
        if bool(over.all()):
            break
        if float(over.float().mean()) >= 0.25 and narrows(carry, len(rows)):
            keep = (~over).nonzero()[:, 0]
            carry = narrowed(carry, keep, len(rows))
            rows, state, goal = rows[keep], state[keep], goal[keep]
    return _outcome(reached, ended, pairs, path, budget, evaluations, seconds if clock else float("nan"), count)


def _per_row(told: Any, rows: int) -> float:
    """Sum over rows of the imagined steps that an agent told: one number counts for each row."""
    if told is None:
        return float("nan")
    told = torch.as_tensor(told, dtype=torch.float64)
    return float(told.sum()) if told.ndim and len(told) == rows else float(told.sum()) * rows


def _outcome(
    reached: Tensor,
    ended: Tensor,
    pairs: PlanPairs,
    path: Tensor,
    budget: int,
    told: list[float],
    seconds: float,
    count: int,
) -> Outcome:
    success = (reached >= 0).numpy()
    steps = torch.where(reached >= 0, reached, budget).numpy()
    ratio = np.where(success, steps / np.maximum(pairs.shortest.cpu().numpy(), 1), np.nan)
    used = int((~path[..., 0].isnan()).any(0).sum())
    return Outcome(success, ended.numpy(), steps, ratio, path[:, :used].numpy(), float(np.sum(told)) / count, seconds)


def narrows(carry: Any, rows: int) -> bool:
    """Can this carry be cut to fewer rows? Yes if every tensor in it has one entry per row and the rest is plain."""
    if isinstance(carry, Tensor):
        return carry.ndim > 0 and len(carry) == rows
    if isinstance(carry, Mapping):
        return all(narrows(v, rows) for v in carry.values())
    if isinstance(carry, (tuple, list)):
        return all(narrows(v, rows) for v in carry)
    if isinstance(carry, Struct):
        return all(narrows(v, rows) for v in vars(carry).values())
    return carry is None or isinstance(carry, (str, int, float, bool, torch.Generator))


def narrowed(carry: Any, keep: Tensor, rows: int) -> Any:
    """The rows `keep` of a carry for which `narrows` holds."""
    if isinstance(carry, Tensor):
        return carry[keep.to(carry.device)]
    if isinstance(carry, Mapping):
        return {k: narrowed(v, keep, rows) for k, v in carry.items()}
    if isinstance(carry, Struct):
        return carry.replace(**{k: narrowed(v, keep, rows) for k, v in vars(carry).items()})
    if isinstance(carry, tuple) and hasattr(carry, "_fields"):
        return type(carry)(*(narrowed(v, keep, rows) for v in carry))
    if isinstance(carry, (tuple, list)):
        return type(carry)(narrowed(v, keep, rows) for v in carry)
    return carry


def baseline_agents(env: Any, pairs: PlanPairs) -> dict[str, Agent]:
    """{'replay', 'noop', 'random'}: agents that use no model; 'replay' follows a shortest path."""
    action = env.spec.action
    options = tried(env.spec)
    if not action.discrete:
        # The true optimum of a box action space goes full speed on every axis, diagonals included.
        options = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=action.size)))
    replay = Replay(action, shortest(env, pairs.start, pairs.goal, options))
    return {agent.name: agent for agent in (replay, NoOp(action), Random(action))}


def shortest(env: Any, start: Any, goal: Any, options: Float[Tensor, "K A"]) -> Float[Tensor, "P L A"]:
    """Actions that descend the true distance: a shortest path where the distance is exact.

    In a continuous environment the true distance is interpolated between grid points, and one step may not lower it:
    there two steps are searched, and the path may be twice as long.
    """
    left = env.distance(start, goal)
    longest = int(left[torch.isfinite(left)].max().item()) if len(left) else 0
    state, actions = start, []
    for _ in range(longest if env.spec.action.discrete else 2 * longest):
        here = _after(env, state, goal, options)  # (P, K)
        if not env.spec.action.discrete:
            ahead = [
                _after(env, env.transition(state, a.expand(len(left), -1)), goal, options).amin(-1) for a in options
            ]
            here = torch.stack(ahead, -1) + 0.01 * here
        actions.append(options[here.argmin(-1)])
        state = env.transition(state, actions[-1])
    return torch.stack(actions, 1) if actions else torch.zeros(len(left), 0, options.shape[-1])


def _after(env: Any, state: Any, goal: Any, options: Float[Tensor, "K A"]) -> Float[Tensor, "P K"]:
    """True distance left after each option."""
    count = len(state.position)
    return torch.stack([env.distance(env.transition(state, a.expand(count, -1)), goal) for a in options], -1)


def summary(outcome: Outcome, rng: torch.Generator) -> dict[str, Any]:
    """Numbers of one agent, with Wilson intervals of the shares and a bootstrap interval of the path ratio."""
    count, draw = len(outcome.any), generator(rng)
    out: dict[str, Any] = {
        "success": float(outcome.any.mean()),
        "success.interval": wilson(int(outcome.any.sum()), count),
        "success_end": float(outcome.end.mean()),
        "success_end.interval": wilson(int(outcome.end.sum()), count),
        "pairs": float(count),
        "steps": float(outcome.steps.mean()),
    }
    ratio = outcome.ratio[np.isfinite(outcome.ratio)]
    if ratio.size:
        out |= {"path_ratio": float(ratio.mean()), "path_ratio.interval": bootstrap_mean(ratio, draw)}
    for name, value in (("evaluations", outcome.evaluations), ("seconds", outcome.seconds)):
        if np.isfinite(value):
            out[name] = float(value)
    return out
