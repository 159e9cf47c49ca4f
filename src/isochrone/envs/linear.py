"""A linear-Gaussian environment without pixels, whose likelihoods are known exactly: an ELBO is tested against them.

s_t = A s_{t-1} + N(0, Q), s_0 = 0        o_t = H s_t + N(0, R)        t = 1..T
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cholesky, eigvals

from isochrone.core.config import option, validate
from isochrone.core.errors import UserError
from isochrone.core.registry import register
from isochrone.core.types import ActionSpec, Spec, Step, check_num_envs

ACTION = ActionSpec("continuous", 1)


@dataclass(frozen=True)
class LinearGaussian:
    """The system's four matrices, float64."""

    a: Float[Tensor, "S S"]
    q: Float[Tensor, "S S"]
    h: Float[Tensor, "D S"]
    r: Float[Tensor, "D D"]

    @classmethod
    def random(cls, size: int, obs_size: int, rng: torch.Generator, diagonal: bool = False) -> Self:
        """A stable system of `size` states and `obs_size` >= `size` observed numbers of unit noise.

        `diagonal`: states that do not mix, observed along orthogonal directions, so that every conditional is diagonal.
        """
        draw = {"generator": rng, "dtype": torch.float64}
        a = torch.randn(size, size, **draw)
        a = torch.diag(0.9 * (2 * torch.rand(size, **draw) - 1)) if diagonal else a * (0.9 / eigvals(a).abs().max())
        h = torch.randn(obs_size, size, **draw)
        if diagonal:
            h = torch.linalg.qr(h)[0] * (0.5 + torch.rand(size, **draw))
        q = torch.diag(0.1 + torch.rand(size, **draw))
        return cls(a, q, h, torch.eye(obs_size, dtype=torch.float64))

    @property
    def sizes(self) -> tuple[int, int]:
        """(states, observed numbers)."""
        return self.h.shape[1], self.h.shape[0]

    def next_states(self, s: Float[Tensor, "B S"], rng: torch.Generator) -> Float[Tensor, "B S"]:
        """The states one step later, with noise."""
        return s @ self.a.T + torch.randn(s.shape, generator=rng, dtype=s.dtype) @ cholesky(self.q).T

    def observe(self, s: Float[Tensor, "*B S"], rng: torch.Generator) -> Float[Tensor, "*B D"]:
        """Observations of states, with noise."""
        noise = torch.randn(*s.shape[:-1], len(self.h), generator=rng, dtype=s.dtype)
        return s @ self.h.T + noise @ cholesky(self.r).T

    def simulate(self, count: int, length: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(states (B, T, S), observations (B, T, D))."""
        s = torch.zeros(count, self.sizes[0], dtype=torch.float64)
        states = []
        for _ in range(length):
            s = self.next_states(s, rng)
            states.append(s)
        trajectory = torch.stack(states, 1)
        return trajectory, self.observe(trajectory, rng)


@dataclass(frozen=True)
class LinearConfig:
    """Options of the linear-Gaussian environment."""

    name: ClassVar[str] = "linear"
    shorthand: ClassVar[str] = "system"
    system: int = option(0, "which system: the seed that its matrices are drawn from", ge=0)
    states: int = option(2, "hidden numbers", ge=1, le=1024)
    obs_size: int = option(2, "observed numbers", ge=1, le=1024)
    diagonal: bool = option(False, "hidden numbers that do not mix")
    episode_length: int = option(19, "actions until an episode is cut off", ge=1, le=1_000_000)

    def check(self, path: str) -> None:
        if self.diagonal and self.obs_size < self.states:
            raise UserError(
                f"{path}obs_size = {self.obs_size}: diagonal needs at least one per state, {self.states}; raise it"
            )


@register("env", "linear")
class LinearEnv:
    """B runs of one system (`VecEnv`). Shows 'state', the D observed numbers; actions change nothing, rewards are 0."""

    Config = LinearConfig

    def __init__(
        self, config: LinearConfig | None = None, num_envs: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """
        Raises:
            UserError: an option out of range, or num_envs below 1.
        """
        self.config = c = validate(config or LinearConfig())
        check_num_envs(num_envs)
        self.num_envs, self.device = num_envs, torch.device(device)
        self.spec = Spec({"state": (c.obs_size,)}, ACTION)
        self.system = LinearGaussian.random(c.states, c.obs_size, torch.Generator().manual_seed(c.system), c.diagonal)
        self._rng = torch.Generator().manual_seed(0)
        self.reset()

    @property
    def episode_length(self) -> int:
        """Actions until an episode is cut off."""
        return self.config.episode_length

    def reset(self, seed: int | None = None) -> Step:
        """Begin an episode in every environment. The same seed gives the same run; None continues the generator."""
        if seed is not None:
            self._rng.manual_seed(seed)
        self._state = torch.zeros(self.num_envs, self.config.states, dtype=torch.float64)
        self._clock = torch.full((self.num_envs,), -1)
        self._last = torch.ones(self.num_envs, dtype=torch.bool)
        return self._advance()

    def step(self, action: Float[Tensor, "B A"]) -> Step:
        """One step of the system. An environment whose last row was `last` begins a new episode instead.

        Raises:
            UserError: an action of another shape, or outside the box.
        """
        ACTION.check(action, self.num_envs)
        return self._advance()

    def close(self) -> None:
        """Nothing to close."""

    def _advance(self) -> Step:
        first = self._last
        self._state = self.system.next_states(self._state.masked_fill(first[:, None], 0), self._rng)
        self._clock = torch.where(first, 0, self._clock + 1)
        self._last = self._clock >= self.config.episode_length
        obs = self.system.observe(self._state, self._rng).float().to(self.device)
        never, reward = torch.zeros_like(first), torch.zeros(self.num_envs, device=self.device)
        return Step({"state": obs}, reward, *(x.to(self.device) for x in (first, self._last, never)))

    # --- exact resume ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the future depends on, as tensors."""
        tensors = {"state": self._state, "clock": self._clock, "last": self._last}
        return {k: v.clone() for k, v in tensors.items()} | {"rng": self._rng.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            UserError: saved with another num_envs.
        """
        if saved["state"].shape != self._state.shape:
            raise UserError(
                f"saved state has num_envs = {len(saved['state'])}, this run {self.num_envs}: use the same num_envs"
            )
        self._state, self._clock, self._last = (saved[k].clone() for k in ("state", "clock", "last"))
        self._rng.set_state(saved["rng"].cpu())
