"""Plan between two cells of the white box and play the plan in the true world, keeping what a film of it needs.

A journey as an animated GIF: the true world on the left, what the model imagines of its plan on the right.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.core.protocols import GroundTruth, HasCells
from isochrone.core.types import tree_map
from isochrone.evals.metrics.planning import HOLD, at_goal, tolerance
from isochrone.workflows import factory
from isochrone.workflows.loaded_run import LoadedRun

CELL = 4  # px


@dataclass(frozen=True)
class Journey:
    """One trip from start to goal, in raw environment steps."""

    start: tuple[int, int]
    goal: tuple[int, int]
    planner: str
    reached: bool
    steps: int  # until first there; the budget where never
    fewest: int
    seconds: float
    goal_frame: np.ndarray  # (C, Y, X) uint8
    frames: list[np.ndarray] = field(repr=False, default_factory=list)  # (C, Y, X) uint8, one per time
    imagined: list[np.ndarray] = field(repr=False, default_factory=list)  # (H, C, Y, X) 0..1: the plan in force
    places: list[tuple[float, float]] = field(repr=False, default_factory=list)  # px of the box, one per time

    def numbers(self) -> dict[str, Any]:
        """JSON-ready, without the pictures."""
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


def travel(
    trained: LoadedRun,
    start: tuple[int, int] | None,
    goal: tuple[int, int] | None,
    clock: Callable[[], float],
    budget: int = 0,
) -> Journey:
    """Plan and act from `start` to `goal` (cells; None: the farthest that there is). Budget 0: 2 x fewest + 8 steps.

    UserError: no white box, no such cell, no way, or nothing to do.
    """
    env: Any = trained.make_env(1)
    if not isinstance(env, GroundTruth):
        name = trained.config.env.name
        raise UserError(f"env '{name}' has no ground truth to plan with: choose one that has, e.g. --env whitebox:MAP")
    here, there, fewest = _ends(env, start, goal)
    budget = budget or 2 * fewest + 8
    agent = factory.make_agent(trained.config, trained.learner)
    env.reset(trained.config.eval.seed)
    env.set_state(here)
    look = partial(tree_map, lambda x: x.to(trained.device))
    rng = torch.Generator(trained.device).manual_seed(trained.config.eval.seed)
    goal_frame = env.draw(there)  # (1, C, Y, X)
    state, reached, began = here, -1, clock()
    carry = agent.start(1, look({"image": goal_frame}), rng)
    frames, imagined, places = [], [], []
    for step in range(budget + 1):
        frame = env.draw(state)  # (1, C, Y, X)
        frames.append(frame[0].cpu().numpy())
        places.append(tuple(state.position[0].tolist()))
        if reached < 0 and bool(at_goal(state, there, tolerance(env))[0]):
            reached = step
        if step == budget or (reached >= 0 and step - reached >= HOLD):
            break
        action, carry, info = agent.act(look({"image": frame}), carry, "eval")
        imagined.append(_pictured(trained.model, carry.state, info["plan"]))
        state = env.transition(state, action.cpu())
    cells = [(int(x) // CELL, int(y) // CELL) for x, y in (here.position[0].tolist(), there.position[0].tolist())]
    return Journey(
        start=cells[0],
        goal=cells[1],
        planner=agent.name,
        reached=reached >= 0,
        steps=reached if reached >= 0 else budget,
        fewest=fewest,
        seconds=clock() - began,
        goal_frame=goal_frame[0].cpu().numpy(),
        frames=frames,
        imagined=imagined,
        places=places,
    )


def _cell(env: Any, cell: tuple[int, int]) -> Any:
    """The state at rest in `cell`. UserError where the environment has no cells."""
    if not isinstance(env, HasCells):
        raise UserError("this environment has no cells, so start and goal cannot be chosen: leave both out")
    return env.cell(*cell)


def _ends(env: Any, start: tuple[int, int] | None, goal: tuple[int, int] | None) -> tuple[Any, Any, int]:
    """(start state, goal state, fewest actions); an end that is not given is the farthest from the other."""
    places, table = env.places(), env.table()  # (C, C)
    far = torch.where(torch.isfinite(table), table, -1.0)
    here, there = (None if cell is None else _cell(env, cell) for cell in (start, goal))
    if here is None and there is None:
        best = int(far.argmax())
        here, there = places[best // len(far)][None], places[best % len(far)][None]
    elif here is None and there is not None:
        here = places[int(far[:, int(env.index(there))].argmax())][None]
    elif there is None and here is not None:
        there = places[int(far[int(env.index(here))].argmax())][None]
    fewest = float(env.distance(here, there))
    if fewest == float("inf"):
        raise UserError(f"the goal {goal} cannot be reached from {start} on this map: choose another pair")
    if fewest == 0:
        raise UserError(f"start and goal are the same place {start or goal}: there is nothing to plan")
    return here, there, int(fewest)


@torch.no_grad()
def _pictured(model: Any, state: Any, plan: Tensor) -> np.ndarray:
    """(H, C, Y, X) in 0..1: what the model sees before its eye while it follows the plan (1, H, A)."""
    states = model.imagine(state, plan[:, None])  # (1, 1, H)
    return model.decode(states[0, 0]).clamp(0, 1).cpu().numpy()


SCALE = 5
BAR = 22  # px of caption
GAP = 10
PAPER, INK, QUIET = (18, 21, 26), (233, 236, 240), (140, 150, 162)
GOAL, TRAIL, DREAM = (53, 199, 156), (95, 180, 238), (240, 138, 75)


def write_gif(path: Path, journey: Journey, pace: int = 140) -> Path:
    """Write the film, `pace` milliseconds a step, the last frame held; whole or not at all."""
    pages = [_page(journey, time) for time in range(len(journey.frames))]
    palette = pages[len(pages) // 2].quantize(96, dither=Image.Dither.NONE)
    shown = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    out = io.BytesIO()
    last = [pace] * (len(shown) - 1) + [1600]
    shown[0].save(out, format="GIF", save_all=True, append_images=shown[1:], duration=last, loop=0, optimize=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, out.getvalue())
    return path


def _page(journey: Journey, time: int) -> Image.Image:
    """One picture: caption, world, imagination."""
    side = journey.frames[0].shape[-1] * SCALE
    page = Image.new("RGB", (2 * side + 3 * GAP, side + BAR + 2 * GAP), PAPER)
    page.paste(_world(journey, time), (GAP, BAR + GAP))
    page.paste(_imagination(journey, time), (side + 2 * GAP, BAR + GAP))
    draw = ImageDraw.Draw(page)
    there = journey.reached and time >= journey.steps
    said = f"step {min(time, journey.steps)}" + (
        f": there (fewest {journey.fewest})" if there else f"  fewest {journey.fewest}"
    )
    draw.text((GAP, GAP - 2), "the world", fill=QUIET)
    draw.text((GAP + 70, GAP - 2), said, fill=GOAL if there else INK)
    draw.text((side + 2 * GAP, GAP - 2), f"what the model imagines ({journey.planner})", fill=QUIET)
    return page


def _bright(frame: np.ndarray) -> np.ndarray:
    """(C, Y, X) in 0..1 -> (Y, X, 3) in 0..1, its dark greys raised so that walls can be seen."""
    picture = np.sqrt(frame.transpose(1, 2, 0))
    return np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture[..., :3]


def _image(picture: np.ndarray) -> Image.Image:
    large = picture.repeat(SCALE, 0).repeat(SCALE, 1)
    return Image.fromarray((large.clip(0, 1) * 255).astype(np.uint8))


def _world(journey: Journey, time: int) -> Image.Image:
    """The true frame, the way so far, and a frame around the goal."""
    image = _image(_bright(journey.frames[time] / 255.0))
    draw = ImageDraw.Draw(image)
    for x, y in journey.places[:time]:
        middle_x, middle_y = (x + 2) * SCALE, (y + 2) * SCALE
        draw.ellipse([middle_x - 3, middle_y - 3, middle_x + 3, middle_y + 3], fill=TRAIL)
    column, row = journey.goal
    box = [column * 4 * SCALE - 2, row * 4 * SCALE - 2, (column + 1) * 4 * SCALE + 1, (row + 1) * 4 * SCALE + 1]
    draw.rectangle(box, outline=GOAL, width=3)
    return image


def _imagination(journey: Journey, time: int) -> Image.Image:
    """Every imagined frame of the plan in force laid over each other, later ones fainter; the goal in green."""
    plan = journey.imagined[min(time, len(journey.imagined) - 1)]  # (H, C, Y, X)
    ground = np.median(np.stack(journey.frames), 0) / 255.0 if len(journey.frames) > 2 else journey.frames[0] / 255.0
    picture = _bright(ground)
    fade = np.linspace(1.0, 0.35, len(plan))[:, None, None]
    seen = np.abs(plan - ground).max(1)  # (H, Y, X)
    trace = (np.where(seen > 0.25, seen, 0.0) * fade).max(0)[..., None]  # (Y, X, 1)
    aim = np.abs(journey.goal_frame / 255.0 - ground).max(0)[..., None] * 0.6
    picture = picture * (1 - aim) + np.array(GOAL) / 255.0 * aim
    return _image(picture * (1 - trace) + np.array(DREAM) / 255.0 * trace)
