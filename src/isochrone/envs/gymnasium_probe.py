"""What a Gymnasium environment shows, found by a trial: make, reset, render and some random steps.

The trial runs before anything is written. Whatever fails in it is one UserError with the id, the exception and what to
do about it; whatever is chosen is logged, with the option that chooses otherwise.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.images import SMALLEST_PICTURE, channels_first, is_picture

if TYPE_CHECKING:
    from isochrone.envs.from_gymnasium import GymConfig

STEPS = 100
"""Random steps of the trial, at most: it ends when the picture has changed."""
CODE = 31
"""A picture with no value above this holds codes of things, not colours."""
PREFERRED = ("image", "pixels", "rgb", "rgb_array")
RESERVED = ("image", "first")
PACKAGES = {
    "ALE": "ale_py",
    "MiniGrid": "minigrid",
    "BabyAI": "minigrid",
    "MiniWorld": "miniworld",
    "highway": "highway_env",
}
"""First word of an id -> the package that registers it."""
SCREEN = re.compile(r"display|x11|\bglx|\begl|glfw|pyglet|opengl|gl context|video device|\bxcb", re.IGNORECASE)
LIBRARY = re.compile(r"lib[\w.+-]+\.so|shared object|dll", re.IGNORECASE)
_LOG = logging.getLogger("isochrone")

Path = tuple[str, ...]
"""The keys that lead to an entry of nested Dict observations; () is the observation itself."""


@dataclass(frozen=True)
class View:
    """What is taken of the observations of an environment."""

    picture: Path | None  # None: the rendering
    channels: int  # of the picture, as `image` returns it
    alpha: bool  # the picture has a fourth channel, which is dropped
    vectors: Mapping[str, Path]  # name in the Spec -> where it is
    space: spaces.Space  # of the observations
    action: spaces.Discrete | spaces.Box

    def image(self, pixels: np.ndarray) -> UInt8[np.ndarray, "C Y X"]:
        """The picture with channels first: without alpha, grey three times."""
        image = channels_first(pixels)
        image = image[:3] if self.alpha else image
        return np.repeat(image, 3, axis=0) if len(image) == 1 else image

    def vector(self, name: str, obs: Any) -> Float32[np.ndarray, "F"]:
        """One vector of an observation."""
        path = self.vectors[name]
        return np.asarray(spaces.flatten(_at(self.space, path), _at(obs, path)), np.float32)

    def size(self, name: str) -> int:
        """Numbers in a vector."""
        return spaces.flatdim(_at(self.space, self.vectors[name]))


@functools.lru_cache(maxsize=64)
def probe(config: GymConfig) -> View:
    """Try the environment and choose what is taken of it.

    Raises:
        UserError: the environment cannot be made, reset, stepped or rendered, or has no picture that can be used.
    """
    chosen = "observation" if config.key is not None else config.pixels
    with _trial(config) as env:
        space, action, modes = env.observation_space, _action(config, env), env.metadata.get("render_modes") or []
        pictures, why = _pictures(config, space), f"its observation is {_short(space)}"
        for path in pictures if chosen != "render" else ():
            frames = _frames(config, env, functools.partial(_picture, config, space, path))
            why = _codes(frames)
            if not why or (chosen == "observation" and _fits(config, frames[0], why)):
                return _view(config, space, action, path, pictures, frames)
    if chosen == "observation":
        raise UserError(f"environment '{config.id}': {why}, which is no picture: use --env.pixels render")
    if "rgb_array" not in modes:
        raise UserError(
            f"environment '{config.id}' has no pixels: {why}, and it cannot render 'rgb_array'; choose one with "
            "image observations or that render mode"
        )
    with _trial(config, render_mode="rgb_array") as env:
        if chosen == "auto":
            _LOG.info("environment '%s': its rendering is used: %s", config.id, why)
        frames = _frames(config, env, lambda _: _rendering(config, env))
        return _view(config, space, action, None, pictures, frames)


def render(config: GymConfig, env: gymnasium.Env) -> np.ndarray:
    """The rendering of an environment. UserError unless it is a uint8 picture."""
    pixels: Any = env.render()
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not is_picture(pixels.shape):
        what = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(f"environment '{config.id}' rendered {what}: need a uint8 array (Y, X, 3)")
    return pixels


# --- the trial --------------------------------------------------------------------------------------------------------


@contextmanager
def _trial(config: GymConfig, **mode: Any) -> Iterator[gymnasium.Env]:
    """An environment for the trial, closed afterwards."""
    with one_sentence(config, "cannot be made"):
        env = gymnasium.make(config.id, disable_env_checker=True, **mode)
    try:
        yield env
    finally:
        with suppress(Exception):  # it was only tried
            env.close()


def _reset(config: GymConfig, env: gymnasium.Env, seed: int) -> Any:
    """The first observation of an episode."""
    with one_sentence(config, "cannot be reset with a seed"):
        result: Any = env.reset(seed=seed)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
        raise UserError(f"environment '{config.id}': reset returned {_kind(result)}: {_API}")
    return result[0]


def _step(config: GymConfig, env: gymnasium.Env) -> tuple[Any, bool]:
    """(observation, has the episode ended) after one random action."""
    with one_sentence(config, "cannot be stepped"):
        result: Any = env.step(env.action_space.sample())
    if not isinstance(result, tuple) or len(result) != 5:
        raise UserError(f"environment '{config.id}': step returned {_kind(result)}: {_API}")
    obs, reward, terminated, truncated, _ = result
    for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if np.ndim(value) or np.asarray(value).dtype.kind not in "biuf":
            raise UserError(
                f"environment '{config.id}': step returned a {name} of {_kind(value)}: it must be one number"
            )
    return obs, bool(terminated or truncated)


_API = (
    "reset must return (observation, info), and step (observation, reward, terminated, truncated, info), as in "
    "Gymnasium since 0.26; wrap the environment"
)


def _frames(config: GymConfig, env: gymnasium.Env, see: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    """Frames (C, Y, X) of random play: the first, the first that differs, and the first with a value above CODE.

    Raises:
        UserError: no frame differs from the first within STEPS steps.
    """
    env.action_space.seed(0)
    frames = [see(_reset(config, env, 0))]
    for step in range(STEPS):
        obs, ended = _step(config, env)
        frame = see(obs)
        if len(frames) == 1 and not np.array_equal(frame, frames[0]):
            frames.append(frame)
        if len(frames) > 1 and max(frames[0].max(), frame.max()) > CODE:
            return [*frames, frame]
        if ended:
            _reset(config, env, step)
    first = frames[0]
    if len(frames) > 1:
        return frames
    other = "choose another with --env.pixels or --env.key"
    if (first == first.flat[0]).all():
        raise UserError(f"environment '{config.id}' draws nothing (every pixel is {first.flat[0]}): {other}")
    raise UserError(f"environment '{config.id}': its picture is the same after {STEPS} random actions: {other}")


def _rendering(config: GymConfig, env: gymnasium.Env) -> np.ndarray:
    with one_sentence(config, "cannot be rendered"):
        return channels_first(render(config, env))


def _picture(config: GymConfig, space: spaces.Space, path: Path, obs: Any) -> np.ndarray:
    """The picture of an observation, with channels first. UserError where it is not what the space says."""
    with one_sentence(config, "returned an observation that does not fit its space"):
        pixels, declared = _at(obs, path), _at(space, path)
    if not isinstance(pixels, np.ndarray) or (pixels.dtype, pixels.shape) != (declared.dtype, declared.shape):
        raise UserError(
            f"environment '{config.id}' returned a picture of {_kind(pixels)}: its observation space says "
            f"{declared.dtype} {declared.shape}"
        )
    return channels_first(pixels)


def _codes(frames: list[np.ndarray]) -> str:
    """'its observation holds codes ...' where the frames are no picture, else ''."""
    _, y, x = frames[0].shape
    if min(y, x) < SMALLEST_PICTURE:
        return f"its observation of {y}x{x} pixels holds codes, not colours"
    high = max(int(frame.max()) for frame in frames)
    plain = all((frame == frame.flat[0]).all() for frame in frames)
    return f"its observation has values up to {high} only: codes, not colours" if high <= CODE and not plain else ""


def _fits(config: GymConfig, frame: np.ndarray, why: str) -> bool:
    """May codes be used as they are? Only where they need not be resized."""
    if frame.shape[1:] != (config.size, config.size):
        raise UserError(
            f"environment '{config.id}': {why}, and codes cannot be resized to {config.size}x{config.size}: "
            "use --env.pixels render"
        )
    return True


# --- what is chosen ---------------------------------------------------------------------------------------------------


def _view(
    config: GymConfig,
    space: spaces.Space,
    action: spaces.Discrete | spaces.Box,
    path: Path | None,
    pictures: list[Path],
    frames: list[np.ndarray],
) -> View:
    """The choice, logged."""
    channels = len(frames[0])
    last = path is None or _at(space, path).shape[-1] == channels  # four channels first are a stack of frames
    alpha = channels == 4 and last and all((frame[3] == frames[0][3, 0, 0]).all() for frame in frames)
    vectors = _vectors(space, path) if _wanted(config, path) else {}
    say = functools.partial(_LOG.info, "environment '%s': %s", config.id)
    if path and len(pictures) > 1:
        say(f"shows '{_text(path)}'; others: {', '.join(_text(p) for p in pictures if p != path)} (--env.key)")
    if channels not in (1, 3):
        say("its fourth channel is constant and left out" if alpha else f"its picture has {channels} channels")
    used = {path, *vectors.values(), *(pictures if path else ())}
    rest = [f"{_text(p) or 'the observation'} ({_short(s)})" for p, s in _leaves(space) if p not in used]
    if vectors:
        say(f"vectors beside the picture: {', '.join(vectors)} (--env.vectors none leaves them out)")
    if rest:
        say(f"left out: {', '.join(rest)}" + (" (--env.vectors all adds vectors)" if config.vectors == "auto" else ""))
    return View(path, 3 if alpha or channels == 1 else channels, alpha, vectors, space, action)


def _wanted(config: GymConfig, path: Path | None) -> bool:
    """Are vectors taken? By default those beside a picture in a Dict: who asks for a rendering wants pixels."""
    return config.vectors == "all" or (config.vectors == "auto" and bool(path))


def _pictures(config: GymConfig, space: spaces.Space) -> list[Path]:
    """Where pictures are in the observations: the best first, or the only one that `key` names."""
    found = [path for path, leaf in _leaves(space) if _is_image(leaf)]
    if config.key is not None:
        chosen = [path for path in found if _text(path) == config.key]
        if not chosen or not config.key:  # '' is the observation itself
            names = [_text(path) for path in found if path]
            hint = did_you_mean(config.key, names) if names else "; it shows none by name"
            raise UserError(f"env.key = {config.key!r}: environment '{config.id}' shows no picture of that name{hint}")
        return chosen

    def rank(path: Path) -> tuple[bool, bool, int]:
        c, y, x = channels_first(np.empty(_at(space, path).shape, np.uint8)).shape
        name = path[-1] if path else ""
        return min(y, x) < SMALLEST_PICTURE, c != 3, PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)

    return sorted(found, key=rank)


def _vectors(space: spaces.Space, picture: Path | None) -> dict[str, Path]:
    """Name in the Spec -> path of everything that is a vector, a number or a choice."""
    vectors: dict[str, Path] = {}
    for path, leaf in _leaves(space):
        numbers = isinstance(leaf, spaces.Box) and len(leaf.shape) <= 1
        if path != picture and (
            numbers or isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
        ):
            name = re.sub(r"\W", "_", "_".join(path)) or "state"
            vectors[f"{name}_vector" if name in RESERVED else name] = path
    return vectors


def _leaves(space: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every entry of nested Dict spaces, with its path."""
    if not isinstance(space, spaces.Dict):
        yield path, space
        return
    for key, inner in space.items():
        yield from _leaves(inner, (*path, str(key)))


def _at(nest: Any, path: Path) -> Any:
    for key in path:
        nest = nest[key]
    return nest


def _is_image(space: Any) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and is_picture(space.shape)


def _action(config: GymConfig, env: gymnasium.Env) -> spaces.Discrete | spaces.Box:
    space: Any = env.action_space
    if not isinstance(space, (spaces.Discrete, spaces.Box)):
        raise UserError(f"environment '{config.id}' takes {type(space).__name__} actions: need Discrete or Box")
    if isinstance(space, spaces.Box) and not (space.is_bounded() and np.issubdtype(space.dtype, np.floating)):
        raise UserError(f"environment '{config.id}' takes actions {space}: need real numbers with finite bounds")
    return space


# --- sentences --------------------------------------------------------------------------------------------------------


@contextmanager
def one_sentence(config: GymConfig, failure: str) -> Iterator[None]:
    """Whatever is raised inside becomes a UserError: the id, what failed, the exception, and what to do about it."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        text = f"{text[:300]} ..." if len(text) > 300 else text
        raise UserError(f"environment '{config.id}' {failure}: {text}{_remedy(config.id, error)}") from error


def _remedy(name: str, error: BaseException) -> str:
    text = f"{type(error).__module__} {type(error).__name__} {error}".lower()
    if isinstance(error, (gymnasium.error.NamespaceNotFound, gymnasium.error.NameNotFound)) and ":" not in name:
        package = PACKAGES.get(re.split(r"[/-]", name)[0])
        example = f"--env gym:{package}:{name}" if package else f"--env gym:PACKAGE:{name}"
        return f" (write {example}: the package that registers it must be imported)"
    if isinstance(error, ModuleNotFoundError):
        return f" (install the package that has '{error.name or name.partition(':')[0]}')"
    if isinstance(error, ImportError) and LIBRARY.search(str(error)):
        return " (install that system library; on Debian and Ubuntu: apt-get install libgl1 libegl1 libosmesa6)"
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not screen and SCREEN.search(text):
        return (
            " (there is no display: run under xvfb-run, or let it draw without one: PYGLET_HEADLESS=1, MUJOCO_GL=egl)"
        )
    if isinstance(error, TypeError) and "unexpected keyword argument" in text:
        return (
            " (make must take render_mode, and reset must take seed, as in Gymnasium since 0.26: wrap the environment)"
        )
    return ""


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} values"
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _short(space: spaces.Space) -> str:
    """A space in a few words: the bounds of a Box may fill pages."""
    if isinstance(space, spaces.Dict):
        return f"Dict of {', '.join(map(str, space))}"
    if isinstance(space, spaces.Box):
        return f"Box{space.shape}"
    return str(space) if isinstance(space, spaces.Discrete) else type(space).__name__


def _text(path: Path) -> str:
    return "/".join(path)
