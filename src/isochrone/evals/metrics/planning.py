"""Can one plan here? Held-out start and goal pairs, solved ones dropped, every success beside its baselines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from isochrone.agents.baselines import NoOp, Random, Replay
from isochrone.core.errors import UserError
from isochrone.core.protocols import Agent, GroundTruth
from isochrone.core.tensors import copy_generator
from isochrone.core.types import Struct
from isochrone.evals.context import Context, plans_between_pairs
from isochrone.evals.figure import THEMES, bare, figure, has
from isochrone.evals.ground_truth import probe_actions
from isochrone.evals.maps import grid_of, walls
from isochrone.evals.metric import BASELINES, Estimate, Question, Refused, family, metric
from isochrone.evals.model_access import numpy_generator
from isochrone.evals.progress import watched
from isochrone.evals.stats import bootstrap_mean, clopper_pearson

HOLD = 3
"""Steps played after a goal is first reached, to see whether the agent stays there."""
CHOOSE = 4
"""The best agent is chosen on one pair of so many, and measured on the others."""
LEAST_REACHED = 0.9
"""Share of goals reached from which the paths to them stand for all: a planner that fails reaches the near ones."""


@dataclass(frozen=True)
class PlanPairs(Struct):
    """P starts and goals, each reachable and none solved before the first action."""

    start: Any  # State[P]
    goal: Any  # State[P]
    shortest: Float[Tensor, " P"]  # fewest actions
    dropped: int = 0  # sampled, but solved before the first action


@dataclass(frozen=True)
class Outcome:
    """What one agent achieved on every pair. Counts are raw environment steps."""

    success: np.ndarray  # (P,) bool: was at the goal at some time
    success_at_end: np.ndarray  # (P,) bool: was there at the end (budget spent, or HOLD steps after reaching it)
    steps: np.ndarray  # (P,) steps until the goal was first reached; the budget where it never was
    ratio: np.ndarray  # (P,) steps / shortest; NaN where the goal was never reached
    path: np.ndarray  # (P, L+1, 2) px of every step; NaN after the run
    evaluations: float  # imagined steps per pair, as reported by the agent (NaN if it reports none)
    seconds: float  # of acting, all pairs (NaN without a clock)

    def rows(self, pairs: slice) -> Outcome:
        """The outcome on some of the pairs."""
        per_pair = {k: getattr(self, k)[pairs] for k in ("success", "success_at_end", "steps", "ratio", "path")}
        return replace(self, **per_pair)

    @property
    def rank(self) -> tuple[float, float]:
        """Orders outcomes: the most successes first, then the shortest paths."""
        return -float(self.success.mean()), float(np.nanmean(self.ratio)) if self.success.any() else np.inf


def plan_pairs(env: Any, count: int, rng: torch.Generator) -> PlanPairs:
    """Sample `count` different ordered pairs of places, uniformly among those whose goal can be reached.

    Pairs whose start is already at the goal's place are dropped and counted. Fewer than `count` are returned where
    the map has no more. Raises UserError when no place can be reached from another.
    """
    if count < 1:
        raise UserError(f"pairs = {count}: planning needs at least 1")
    places, table = env.places(), env.table().cpu()
    reachable = torch.isfinite(table).flatten().nonzero()[:, 0]
    order = reachable[torch.randperm(len(reachable), generator=rng, device=rng.device).cpu()]
    a, b = order // len(table), order % len(table)
    solved = (table[a, b] <= 0) | at_goal(places[a], places[b], tolerance(env))
    selected = (~solved).nonzero()[:count, 0]
    if not len(selected):
        raise UserError("no place of this map can be reached from another: use a map with at least two connected cells")
    dropped = int(solved[: int(selected[-1]) + 1].sum())
    return PlanPairs(places[a[selected]], places[b[selected]], table[a[selected], b[selected]].float(), dropped)


def tolerance(env: Any) -> float:
    """Pixels within which the box is at the goal: half a pixel for discrete moves, half a 4 px cell otherwise."""
    return 0.5 if env.spec.action.discrete else 2.0


def at_goal(state: Any, goal: Any, within: float) -> Tensor:
    """(B,) bool."""
    return (state.position - goal.position).abs().amax(-1) <= within


PLAN = Question(
    "plan",
    "Can one plan here?",
    "Held-out starts and goals, none solved at the start: replaying a true shortest path must reach about 100 %, "
    "doing nothing 0 %, and a planner is worth its cost only far above random actions.",
    order=90,
)
RANDOM = "random actions, on the same pairs"


@family("planning", PLAN, needs=[plans_between_pairs], env=[GroundTruth], draw_order=11)
@metric("planning.best.success", "goals reached by the best planner", "%", baseline=RANDOM, target=">= 0.99")
@metric("planning.best.success_end", "… and still there at the end", "%")
@metric("planning.best.path_ratio", "steps over the fewest possible, where reached", "{:.3f}", target="<= 1.05")
@metric("planning.cem.success", "goals reached by CEM", "%", baseline=RANDOM, target=">= 0.95")
@metric("planning.{agent}.success", "reached", "%", baseline=RANDOM, column=True)
@metric("planning.{agent}.success_end", "at the end", "%", column=True)
@metric("planning.{agent}.path_ratio", "path ratio", "{:.3f}", column=True)
@metric("planning.{agent}.steps", "steps", "{:.1f}", column=True)
@metric("planning.{agent}.evaluations", "imagined steps", "{:,.0f}", column=True)
@metric("planning.{agent}.seconds", "seconds", "{:.1f}", column=True)
@metric("planning.{agent}.pairs", "pairs played by {agent}", "{:.0f}", detail=True)
@metric("planning.dropped", "pairs dropped because they were solved at the start", "{:.0f}", detail=True)
@metric("planning.budget", "environment steps per pair", "{:.0f}", detail=True)
def planning(context: Context) -> dict[str, Any]:
    """Every agent and every baseline on the same pairs.

    `best` is the agent with the most successes on the first quarter of the pairs, measured on the others: on the pairs
    that it is chosen on it would be too good. With one agent there is nothing to choose, and all pairs count.

    Each draws the same random numbers, so that its results do not depend on which others were asked, or in what order.
    """
    env, config, rng, agents = context.env, context.config, context.rng, context.agents
    pairs = plan_pairs(env, config.pairs, rng)
    budget = config.budget or 2 * int(pairs.shortest.max()) + 8
    outcomes: dict[str, Outcome] = {}
    acting = watched(agents, context.progress, "planning", budget)
    for name, agent in {**acting, **baseline_agents(env, pairs)}.items():
        device = "cpu" if name in BASELINES else context.device
        outcomes[name] = evaluate_agent(
            env, agent, pairs, budget, clock=context.clock, device=device, rng=copy_generator(rng)
        )
    out: dict[str, Any] = {"dropped": float(pairs.dropped), "budget": float(budget)}
    for name, outcome in outcomes.items():
        out |= {f"{name}.{k}": v for k, v in summary(outcome, copy_generator(rng)).items()}
    for name in agents:
        success = out[f"{name}.success"]
        out[f"{name}.success"] = Estimate(success, success.interval, float(out["random.success"]))
    ranked = sorted(agents, key=lambda name: (*outcomes[name].rank, name))
    if ranked:
        out |= {f"best.{k}": v for k, v in _best(outcomes, list(agents), rng).items()}
    return out | _figure_arrays(outcomes, pairs, ranked)


def _best(outcomes: Mapping[str, Outcome], agents: list[str], rng: torch.Generator) -> dict[str, Any]:
    """Success and path ratio of the best agent, on other pairs than it is chosen on."""
    count = len(outcomes[agents[0]].success)
    chosen_on = 0 if len(agents) == 1 else max(1, count // CHOOSE)
    if chosen_on == count:
        return dict.fromkeys(("success", "success_end", "path_ratio"), Refused("one pair: none is left to measure on"))
    name = min(agents, key=lambda n: (*outcomes[n].rows(slice(chosen_on)).rank, n)) if chosen_on else agents[0]
    scored = {n: outcomes[n].rows(slice(chosen_on, None)) for n in (name, "random")}
    out = {
        k: v for k, v in summary(scored[name], rng).items() if k in ("success", "success_end", "path_ratio", "pairs")
    }
    out["success"] = Estimate(out["success"], out["success"].interval, float(scored["random"].success.mean()))
    if "path_ratio" in out and not out["success"] >= LEAST_REACHED:
        out["path_ratio"] = Refused(
            f"{100 * out['success']:.0f} % of the goals were reached: paths to those say nothing of the others"
        )
    return out


def _figure_arrays(outcomes: Mapping[str, Outcome], pairs: PlanPairs, ranked: list[str]) -> dict[str, Any]:
    """What the figure draws: success of every agent on every pair, and the paths of the best one."""
    names = [*ranked, *(n for n in outcomes if n not in ranked)]
    out: dict[str, Any] = {
        "agents": np.array(names),
        "success": np.array([outcomes[n].success for n in names]),  # (agents, P)
        "ratio": np.array([outcomes[n].ratio for n in names]),
        "shortest": pairs.shortest.cpu().numpy(),
    }
    if ranked:
        out["paths"] = outcomes[ranked[0]].path  # (P, L, 2)
        out["goals"] = pairs.goal.position.cpu().numpy()
        out["paths_agent"] = np.array(ranked[0])
    return out


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
    """Play every pair as one batch on the true physics; pairs that are finished leave the batch.

    Args:
        agent: an Agent; goal and obs hold 'image', uint8 (P, C, Y, X). info['evaluations'], imagined steps per row, is
            summed where it is given.
        budget: raw environment steps per pair.
        within: goal tolerance in px (default `tolerance(env)`).
        clock: seconds, e.g. time.perf_counter; without one `seconds` is NaN.
    """
    if budget < 1:
        raise UserError(f"budget = {budget}: an agent needs at least 1 step")
    within = tolerance(env) if within is None else within
    count = len(pairs.shortest)
    first_arrival, at_end = torch.full((count,), -1), torch.zeros(count, dtype=torch.bool)
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
        evaluations.append(_sum_over_rows(info.get("evaluations"), len(rows)))
        state = env.transition(state, action.to(pairs.shortest.device))
        arrived = at_goal(state, goal, within)
        path[rows, step] = state.position
        at_end[rows] = arrived
        first_arrival[rows] = torch.where((first_arrival[rows] < 0) & arrived, step, first_arrival[rows])
        finished = (first_arrival[rows] >= 0) & (step - first_arrival[rows] >= HOLD)
        if bool(finished.all()):
            break
        if float(finished.float().mean()) >= 0.25 and can_select_rows(carry, len(rows)):
            keep = (~finished).nonzero()[:, 0]
            carry = select_rows(carry, keep, len(rows))
            rows, state, goal = rows[keep], state[keep], goal[keep]
    seconds = seconds if clock else float("nan")
    return _outcome(first_arrival, at_end, pairs, path, budget, sum(evaluations) / count, seconds)


def _sum_over_rows(evaluations: Any, rows: int) -> float:
    """Imagined steps of all rows from what an agent reports: (B), or one number that counts for each row."""
    if evaluations is None:
        return float("nan")
    evaluations = torch.as_tensor(evaluations, dtype=torch.float64)
    total = float(evaluations.sum())
    return total if evaluations.ndim and len(evaluations) == rows else total * rows


def _outcome(
    first_arrival: Tensor,
    at_end: Tensor,
    pairs: PlanPairs,
    path: Tensor,
    budget: int,
    evaluations: float,
    seconds: float,
) -> Outcome:
    success = (first_arrival >= 0).numpy()
    steps = torch.where(first_arrival >= 0, first_arrival, budget).numpy()
    ratio = np.where(success, steps / np.maximum(pairs.shortest.cpu().numpy(), 1), np.nan)
    rows = int((~path[..., 0].isnan()).any(0).sum())
    return Outcome(success, at_end.numpy(), steps, ratio, path[:, :rows].numpy(), evaluations, seconds)


def can_select_rows(carry: Any, rows: int) -> bool:
    """Can rows of this carry be selected? Yes if every tensor in it has one entry per row and the rest is plain."""
    if isinstance(carry, Tensor):
        return carry.ndim > 0 and len(carry) == rows
    if isinstance(carry, Mapping):
        return all(can_select_rows(v, rows) for v in carry.values())
    if isinstance(carry, (tuple, list)):
        return all(can_select_rows(v, rows) for v in carry)
    if isinstance(carry, Struct):
        return all(can_select_rows(v, rows) for v in vars(carry).values())
    return carry is None or isinstance(carry, (str, int, float, bool, torch.Generator))


def select_rows(carry: Any, keep: Tensor, rows: int) -> Any:
    """The rows `keep` of a carry for which `can_select_rows` holds."""
    if isinstance(carry, Tensor):
        return carry[keep.to(carry.device)]
    if isinstance(carry, Mapping):
        return {k: select_rows(v, keep, rows) for k, v in carry.items()}
    if isinstance(carry, Struct):
        return carry.replace(**{k: select_rows(v, keep, rows) for k, v in vars(carry).items()})
    if isinstance(carry, tuple) and hasattr(carry, "_fields"):
        return type(carry)(*(select_rows(v, keep, rows) for v in carry))
    if isinstance(carry, (tuple, list)):
        return type(carry)(select_rows(v, keep, rows) for v in carry)
    return carry


def baseline_agents(env: Any, pairs: PlanPairs) -> dict[str, Agent]:
    """{'replay', 'noop', 'random'}: agents that use no model; 'replay' follows a shortest path."""
    action = env.spec.action
    options = probe_actions(env.spec)
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
    distance = env.distance(start, goal)
    longest = int(distance[torch.isfinite(distance)].max().item()) if len(distance) else 0
    state, actions = start, []
    for _ in range(longest if env.spec.action.discrete else 2 * longest):
        after = _after(env, state, goal, options)  # (P, K)
        if not env.spec.action.discrete:
            after_next = [
                _after(env, env.transition(state, a.expand(len(distance), -1)), goal, options).amin(-1) for a in options
            ]
            after = torch.stack(after_next, -1) + 0.01 * after
        actions.append(options[after.argmin(-1)])
        state = env.transition(state, actions[-1])
    return torch.stack(actions, 1) if actions else torch.zeros(len(distance), 0, options.shape[-1])


def _after(env: Any, state: Any, goal: Any, options: Float[Tensor, "K A"]) -> Float[Tensor, "P K"]:
    """True distance left after each option."""
    count = len(state.position)
    return torch.stack([env.distance(env.transition(state, a.expand(count, -1)), goal) for a in options], -1)


def summary(outcome: Outcome, rng: torch.Generator) -> dict[str, Any]:
    """Numbers of one agent, with exact intervals of the success rates and a bootstrap interval of the path ratio."""
    count, draw = len(outcome.success), numpy_generator(rng)
    out: dict[str, Any] = {
        name: Estimate(success.mean(), clopper_pearson(int(success.sum()), count))
        for name, success in (("success", outcome.success), ("success_end", outcome.success_at_end))
    }
    out |= {"pairs": float(count), "steps": float(outcome.steps.mean())}
    ratio = outcome.ratio[np.isfinite(outcome.ratio)]
    if ratio.size:
        out["path_ratio"] = Estimate(ratio.mean(), bootstrap_mean(ratio, draw))
    for name, value in (("evaluations", outcome.evaluations), ("seconds", outcome.seconds)):
        if np.isfinite(value):
            out[name] = float(value)
    return out


# --- figure ---------------------------------------------------------------------------------------------------------

SHOWN = 6
"""Paths in the figure."""


@figure("planning", PLAN, order=90)
def success_and_paths(arrays: Mapping[str, Any], theme: str) -> Figure | None:
    """`planning.{agents, success, shortest, paths, goals}`; baselines are grey."""
    if not has(arrays, "planning.agents", "planning.success"):
        return None
    mapped = has(arrays, "planning.paths", "reach.map_xy")
    drawing = Figure(figsize=(10.6, 3.9))
    axes = drawing.subplots(1, 3 if mapped else 2, width_ratios=[1.15, 1, 1] if mapped else None)
    _bars(axes[0], arrays, theme)
    _by_distance(axes[1], arrays, theme)
    if mapped:
        _paths(axes[2], arrays, theme)
    return drawing


def _bars(ax: Axes, arrays: Mapping[str, Any], theme: str) -> None:
    t, names, success = (
        THEMES[theme],
        [str(n) for n in arrays["planning.agents"]],
        np.asarray(arrays["planning.success"]),
    )
    for row, (agent, wins) in enumerate(zip(names, success, strict=True)):
        share, (low, high) = 100 * wins.mean(), clopper_pearson(int(wins.sum()), len(wins))
        colour = t.cycle[1] if agent in BASELINES else t.cycle[0]
        ax.barh(row, share, color=colour, height=0.62)
        ax.plot([100 * low, 100 * high], [row, row], color=t.ink, lw=1.6)
        ax.annotate(
            f"{share:.0f}", (max(share, 100 * high), row), (6, 0), textcoords="offset points", va="center", fontsize=9.5
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(
        xlim=(0, 113),
        xticks=[0, 25, 50, 75, 100],
        title="Goals reached, %",
        xlabel=f"of {success.shape[1]} pairs; 95 % interval",
    )
    ax.grid(axis="y", visible=False)


def _by_distance(ax: Axes, arrays: Mapping[str, Any], theme: str) -> None:
    t, shortest = THEMES[theme], np.asarray(arrays["planning.shortest"])
    edges = np.unique(np.quantile(shortest, np.linspace(0, 1, 7)).round())
    for index, (agent, wins) in enumerate(
        zip(arrays["planning.agents"], np.asarray(arrays["planning.success"]), strict=True)
    ):
        if str(agent) in ("replay", "noop"):
            continue
        groups = [(shortest >= a) & (shortest <= b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        points = [(shortest[g].mean(), 100 * wins[g].mean()) for g in groups if g.any()]
        baseline = str(agent) in BASELINES
        colour = t.cycle[1] if baseline else t.cycle[(0, 2, 3, 4)[index % 4]]
        if points:
            ax.plot(
                *zip(*points, strict=True),
                color=colour,
                ls="--" if baseline else "-",
                marker="o",
                ms=3.5,
                label=str(agent),
            )
    ax.set(xlabel="shortest path, actions", title="… by distance, %", ylim=(-3, 108), xlim=(0, None))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")


def _paths(ax: Axes, arrays: Mapping[str, Any], theme: str) -> None:
    """The longest of the pairs, one colour each: ring = start, dot = goal, gap = pipe."""
    t, xy = THEMES[theme], np.asarray(arrays["reach.map_xy"])
    offset = np.asarray(arrays.get("reach.map_offset", np.zeros(2)))
    grid = grid_of(xy)
    ax.imshow(np.zeros((1, 1, 4)), extent=grid.extent)
    walls(ax, grid, theme)
    paths, goals = np.asarray(arrays["planning.paths"]) + offset, np.asarray(arrays["planning.goals"]) + offset
    order = np.argsort(-np.asarray(arrays["planning.shortest"]), kind="stable")
    selected = order[np.linspace(0, len(order) // 2, SHOWN).astype(int)] if len(order) >= SHOWN else order
    for k, pair in enumerate(selected):
        path = paths[pair][~np.isnan(paths[pair][:, 0])]
        jump = (
            np.abs(np.diff(path, axis=0)).max(-1, initial=0) > 2.6 * grid.pitch if len(path) > 1 else np.zeros(0, bool)
        )
        broken = np.insert(path, np.flatnonzero(jump) + 1, np.nan, axis=0)
        colour = t.cycle[(0, 2, 3, 4)[k % 4]]
        ax.plot(*broken.T, color=colour, lw=1.8, alpha=0.9, zorder=5)
        ax.plot(*path[0], "o", ms=6, mfc=t.paper, mec=colour, mew=1.6, zorder=6)
        ax.plot(*goals[pair], "o", ms=5, color=colour, zorder=6)
    bare(ax)
    ax.set_title(f"Paths of '{arrays.get('planning.paths_agent', 'agent')}'")
