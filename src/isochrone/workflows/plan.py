"""Plan between two places of an environment with ground truth, execute the plan there, and show it as a GIF."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write, writing
from isochrone.core.protocols import Agent, GroundTruth, HasCells
from isochrone.core.types import tree_map
from isochrone.evals.metrics.planning import HOLD, at_goal, tolerance
from isochrone.training.device import compute_settings
from isochrone.workflows import factory
from isochrone.workflows.loaded_run import LoadedRun

CELL = 4  # pixels


@dataclass(frozen=True)
class PlanEpisode:
    """An episode from start to goal. Steps are raw environment steps."""

    start: tuple[int, int]  # cell: column, row
    goal: tuple[int, int]
    planner: str
    reached: bool
    steps: int  # until the goal was first reached; the budget if it was not
    fewest: int  # steps of a shortest path
    seconds: float
    goal_frame: np.ndarray  # (C, Y, X) uint8
    frames: list[np.ndarray] = field(repr=False, default_factory=list)  # (C, Y, X) uint8, one per time
    imagined: list[np.ndarray] = field(repr=False, default_factory=list)  # (H, C, Y, X) 0..1: the plan at each step
    positions: list[tuple[float, float]] = field(repr=False, default_factory=list)  # pixels (x, y), one per time

    def numbers(self) -> dict[str, Any]:
        """What can be written as JSON: all but the frames and positions, and the ratio of steps to the fewest."""
        return {
            "start": list(self.start),
            "goal": list(self.goal),
            "planner": self.planner,
            "reached": self.reached,
            "steps": self.steps,
            "fewest": self.fewest,
            "ratio": self.steps / self.fewest if self.reached else None,
            "seconds": round(self.seconds, 3),
        }


def cell_of(text: str, option: str) -> tuple[int, int]:
    """'2,3' -> (2, 3), column and row. UserError naming the option."""
    try:
        column, row = (int(word) for word in text.strip("() ").split(","))
    except ValueError:
        raise UserError(f"{option} {text}: write a cell as column,row such as 2,3") from None
    return column, row


def execute_plan(
    loaded: LoadedRun,
    start: tuple[int, int] | None,
    goal: tuple[int, int] | None,
    clock: Callable[[], float],
    budget: int = 0,
) -> PlanEpisode:
    """Let the run's agent act from one cell to another.

    Args:
        start, goal: column and row; None: the place farthest from the other one.
        clock: seconds, e.g. time.perf_counter.
        budget: steps; 0: twice the fewest plus 8.

    Raises:
        UserError: the environment has no ground truth or no such cell, the goal cannot be reached or is the start, or
            the agent does not plan towards a goal.
    """
    with compute_settings(loaded.config.train):
        return _execute(loaded, start, goal, clock, budget)


def _execute(
    loaded: LoadedRun,
    start: tuple[int, int] | None,
    goal: tuple[int, int] | None,
    clock: Callable[[], float],
    budget: int,
) -> PlanEpisode:
    env: Any = loaded.make_env(1)
    if not isinstance(env, GroundTruth):
        name = loaded.config.env.name
        raise UserError(f"env '{name}' has no ground truth to plan with: choose one that has, e.g. --env whitebox:MAP")
    agent = factory.make_agent(loaded.config, loaded.learner)
    if not agent.needs_goal:
        raise UserError(f"agent '{agent.name}' takes no goal: choose --agent mpc with --agent.objective p, z or mixed")
    state, target, fewest = _ends(env, start, goal)
    budget = budget or 2 * fewest + 8
    env.reset(loaded.config.eval.seed)
    env.set_state(state)
    rng = torch.Generator(loaded.device).manual_seed(loaded.config.eval.seed)
    to_device = partial(tree_map, lambda x: x.to(loaded.device))
    goal_frame = env.draw(target)  # (1, C, Y, X)
    first_reached, began = -1, clock()
    carry = agent.start(1, to_device({"image": goal_frame}), rng)
    frames, imagined, positions = [], [], []
    for step in range(budget + 1):
        frame = env.draw(state)  # (1, C, Y, X)
        frames.append(frame[0].cpu().numpy())
        positions.append(tuple(state.position[0].tolist()))
        if first_reached < 0 and bool(at_goal(state, target, tolerance(env))[0]):
            first_reached = step
        if step == budget or (first_reached >= 0 and step - first_reached >= HOLD):
            break
        action, carry, info = agent.act(to_device({"image": frame}), carry, "eval")
        imagined.append(_imagined_frames(loaded.model, carry.state, _plan_of(agent, info)))
        state = env.transition(state, action.cpu())
    return PlanEpisode(
        start=_cell_at(positions[0]),
        goal=_cell_at(tuple(target.position[0].tolist())),
        planner=agent.name,
        reached=first_reached >= 0,
        steps=first_reached if first_reached >= 0 else budget,
        fewest=fewest,
        seconds=clock() - began,
        goal_frame=goal_frame[0].cpu().numpy(),
        frames=frames,
        imagined=imagined,
        positions=positions,
    )


def _cell_at(position: tuple[float, float]) -> tuple[int, int]:
    return int(position[0]) // CELL, int(position[1]) // CELL


def _cell_state(env: Any, cell: tuple[int, int]) -> Any:
    """The state at rest in `cell`. UserError where the environment has no cells."""
    if not isinstance(env, HasCells):
        raise UserError("this environment has no cells, so start and goal cannot be chosen: leave both out")
    return env.cell(*cell)


def _ends(env: Any, start: tuple[int, int] | None, goal: tuple[int, int] | None) -> tuple[Any, Any, int]:
    """(start state, goal state, fewest steps); an end that is None is the place farthest from the other."""
    places, table = env.places(), env.table()  # table (C, C)
    finite = torch.where(torch.isfinite(table), table, -1.0)
    a, b = (None if cell is None else _cell_state(env, cell) for cell in (start, goal))
    if a is None and b is None:
        farthest = int(finite.argmax())
        a, b = places[farthest // len(finite)][None], places[farthest % len(finite)][None]
    elif a is None and b is not None:
        a = places[int(finite[:, int(env.index(b))].argmax())][None]
    elif b is None and a is not None:
        b = places[int(finite[int(env.index(a))].argmax())][None]
    fewest = float(env.distance(a, b))
    if fewest == float("inf"):
        raise UserError(f"the goal {goal} cannot be reached from {start} on this map: choose another pair")
    if fewest == 0:
        raise UserError(f"start and goal are the same place {start or goal}: there is nothing to plan")
    return a, b, int(fewest)


def _plan_of(agent: Agent, info: dict[str, Any]) -> Float[Tensor, "1 H A"]:
    if "plan" not in info:
        raise UserError(f"agent '{agent.name}' makes no plan that could be shown: choose --agent mpc")
    return info["plan"]


@torch.no_grad()
def _imagined_frames(model: Any, state: Any, plan: Float[Tensor, "1 H A"]) -> np.ndarray:
    """(H, C, Y, X) in 0..1: the decoded frames of the imagined plan."""
    states = model.imagine(state, plan[:, None])  # (1, 1, H)
    return model.decode(states[0, 0]).clamp(0, 1).cpu().numpy()


# --- GIF --------------------------------------------------------------------------------------------------------------

SCALE = 5  # pixels of the GIF per pixel of the frame
CAPTION = 22  # height in pixels
GAP = 10
LAST_FRAME = 1600  # milliseconds
BACKGROUND, TEXT, MUTED = (18, 21, 26), (233, 236, 240), (140, 150, 162)
GOAL, PATH, IMAGINED = (53, 199, 156), (95, 180, 238), (240, 138, 75)


def write_gif(path: str | Path, episode: PlanEpisode, milliseconds: int = 140) -> Path:
    """Write an animation, one image per step: the environment on the left, the imagined plan on the right."""
    path = Path(path)
    pages = [_page(episode, time) for time in range(len(episode.frames))]
    palette = pages[len(pages) // 2].quantize(96, dither=Image.Dither.NONE)
    pages = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    durations = [milliseconds] * (len(pages) - 1) + [LAST_FRAME]
    out = io.BytesIO()
    pages[0].save(out, format="GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=False)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, out.getvalue())
    return path


def _page(episode: PlanEpisode, time: int) -> Image.Image:
    """Both images of one time, with their captions."""
    side = episode.frames[0].shape[-1] * SCALE
    page = Image.new("RGB", (2 * side + 3 * GAP, side + CAPTION + 2 * GAP), BACKGROUND)
    page.paste(_environment_image(episode, time), (GAP, CAPTION + GAP))
    page.paste(_imagined_image(episode, time), (side + 2 * GAP, CAPTION + GAP))
    draw = ImageDraw.Draw(page)
    reached = episode.reached and time >= episode.steps
    status = "goal reached" if reached else "running"
    text = f"step {min(time, episode.steps)}, {status} (fewest {episode.fewest})"
    draw.text((GAP, GAP - 2), "environment", fill=MUTED)
    draw.text((GAP + 78, GAP - 2), text, fill=GOAL if reached else TEXT)
    draw.text((side + 2 * GAP, GAP - 2), f"imagined plan ({episode.planner})", fill=MUTED)
    return page


def _environment_image(episode: PlanEpisode, time: int) -> Image.Image:
    """The true frame, the path so far, and a rectangle around the goal."""
    image = _enlarge(_brighten(episode.frames[time] / 255.0))
    draw = ImageDraw.Draw(image)
    for x, y in episode.positions[:time]:
        center_x, center_y = (x + CELL / 2) * SCALE, (y + CELL / 2) * SCALE
        draw.ellipse([center_x - 3, center_y - 3, center_x + 3, center_y + 3], fill=PATH)
    left, top = (cell * CELL * SCALE for cell in episode.goal)
    size = CELL * SCALE
    draw.rectangle([left - 2, top - 2, left + size + 1, top + size + 1], outline=GOAL, width=3)
    return image


def _imagined_image(episode: PlanEpisode, time: int) -> Image.Image:
    """All imagined frames of the current plan in one image, later ones fainter; the goal in green."""
    plan = episode.imagined[min(time, len(episode.imagined) - 1)]  # (H, C, Y, X)
    few = len(episode.frames) <= 2
    static = (episode.frames[0] if few else np.median(np.stack(episode.frames), 0)) / 255.0  # (C, Y, X) without the box
    fade = np.linspace(1.0, 0.35, len(plan))[:, None, None]
    difference = np.abs(plan - static).max(1)  # (H, Y, X)
    trace = (np.where(difference > 0.25, difference, 0.0) * fade).max(0)[..., None]  # (Y, X, 1)
    goal = np.abs(episode.goal_frame / 255.0 - static).max(0)[..., None] * 0.6  # (Y, X, 1)
    image = _brighten(static) * (1 - goal) + np.array(GOAL) / 255.0 * goal
    return _enlarge(image * (1 - trace) + np.array(IMAGINED) / 255.0 * trace)


def _brighten(frame: np.ndarray) -> np.ndarray:
    """(C, Y, X) in 0..1 -> (Y, X, 3) in 0..1, with dark greys raised so that walls are visible."""
    image = np.sqrt(frame.transpose(1, 2, 0))
    return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image[..., :3]


def _enlarge(image: np.ndarray) -> Image.Image:
    large = image.repeat(SCALE, 0).repeat(SCALE, 1)
    return Image.fromarray((large.clip(0, 1) * 255).astype(np.uint8))
