"""A journey as an animated GIF: the true world on the left, what the model imagines of its plan on the right."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from isochrone.core.files import atomic_write
from isochrone.tasks.plan import Journey

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
