"""RNN, SSM and RSSM: what they share, then the three. (PlaNet, Hafner et al. 2019; Dreamer v1-v3)

Row t holds the action taken *at* o_t. With h the deterministic state, z the sample and e the embedding of o_t::

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    prior p(z_t | h_t)    posterior q(z_t | h_t, e_t)    features [z_t, h_t]

In the RNN z is deterministic; the SSM has no h beyond features of (z_{t-1}, a_{t-1}). Everything that depends on
neither h nor z (encodings, projections of actions and embeddings, noise) is computed for all rows before the loop over
time; only f, the posterior and its sample run inside.

Order of this file: config and state, heads, image preprocessing, the shared model `StateSpace` (acting and imagining;
`encode`, `filter`, `heads`), overshooting, the three models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.registry import register
from isochrone.core.tensors import gather_rows
from isochrone.core.types import Batch, Spec, Struct
from isochrone.models.base import Model
from isochrone.nets.distributions import (
    Categorical,
    Deterministic,
    Gaussian,
    bins,
    symexp,
    symlog,
    two_hot_mean,
    two_hot_nll,
)
from isochrone.nets.image import ENCODERS, ObsDecoder, ObsEncoder
from isochrone.nets.linear import defer_weight_grad
from isochrone.nets.mlp import MLP, MLPConfig, TwoInputMLP
from isochrone.nets.recurrent import dynamics

# --- config and state


class StateSpaceMode(StrEnum):
    """Settings that change which groups a loss moves; losses refer to them."""

    DECOUPLED_POSTERIOR = "decoupled_posterior"
    """q(z | o) does not depend on h."""
    DECOUPLED_MEMORYLESS = "decoupled_memoryless"
    """The same in a model without h: posterior features do not depend on the dynamics at all."""


@dataclass(frozen=True)
class StateSpaceConfig:
    """Sizes and choices of a state-space model. The presets planet, dreamer_v1, v2 and v3 are recipes."""

    deter: int = option(200, "size of h, the deterministic state (ignored by the SSM)", ge=0, le=65_536)
    stoch: int = option(30, "size of z; with classes: number of groups of classes", ge=1, le=65_536)
    classes: int = option(0, "classes per group of z; 0: z is Gaussian", ge=0, le=65_536)
    hidden: int = option(200, "width of the MLPs inside", ge=4, le=65_536)
    cell: Literal["gru", "ln_gru", "block_gru"] = option("gru", "recurrent cell of h")
    blocks: int = option(8, "blocks of a block_gru", ge=1, le=1024)
    norm: Literal["none", "layer", "rms"] = option("none", "normalisation inside the MLPs")
    act: Literal["relu", "elu", "silu", "none"] = option("elu", "their activation")
    unimix: float = option(0.01, "weight of the uniform distribution in a categorical z", ge=0, lt=1)
    min_std: float = option(0.1, "lower bound of the standard deviation of a Gaussian z", gt=0)
    prior_layers: int = option(1, "hidden layers of the prior", ge=0, le=64)
    posterior_layers: int = option(1, "hidden layers of the posterior", ge=1, le=64)
    posterior: Literal["coupled", "decoupled"] = option("coupled", "coupled: q(z | h, o); decoupled: q(z | o)")
    initial_state: Literal["zeros", "learned"] = option("zeros", "state before the first frame")
    encoder: Literal["planet", "dreamer", "patch", "conv"] = option("planet", "image networks")
    subtract_mean_frame: bool = option(False, "encode and decode images minus the mean frame of the first data")
    depth: int = option(32, "channels of the encoder's first layer", ge=4, le=4096)
    embed: int = option(256, "size of a patch or conv embedding, and of every vector's", ge=4, le=65_536)
    symlog: bool = option(True, "pass vector observations through symlog, in and out")
    image_bits: int = option(8, "bits of an image that are used; the others become noise (PlaNet: 5)", ge=1, le=8)
    head_units: int = option(200, "width of the reward and continue heads", ge=4, le=65_536)
    head_layers: int = option(2, "their hidden layers, and those of vectors", ge=0, le=64)
    reward: Literal["normal", "symlog_two_hot", "symexp_two_hot"] = option("normal", "likelihood of the reward")
    decode_rows: int = option(
        0, "rows of each window that are decoded in training, sampled for each batch (0: all)", ge=0, le=65_536
    )
    overshoot: int = option(
        0, "D: steps imagined from posteriors for the overshooting losses (0: none)", ge=0, le=65_536
    )
    rollout_starts: int = option(
        0, "posteriors per window that overshooting starts from (0: every row)", ge=0, le=65_536
    )
    compile: Literal["none", "step", "unroll"] = option(
        "none", "torch.compile nothing, the step, or the whole loop over time"
    )

    def check(self, path: str) -> None:
        """Raise UserError if `deter` is not a multiple of `blocks` in a block_gru."""
        if self.cell == "block_gru" and self.deter % self.blocks:
            raise UserError(f"{path}deter = {self.deter}: a block_gru needs a multiple of {path}blocks = {self.blocks}")

    def check_window(self, length: int, path: str) -> None:
        """Raise UserError if windows of `length` rows are too short for an overshooting rollout."""
        if self.overshoot >= length:
            raise UserError(
                f"{path}overshoot = {self.overshoot}: windows have only train.length = {length} rows; "
                f"lower it below {length}, or raise train.length"
            )


@dataclass(frozen=True)
class StateSpaceState(Struct):
    """(h, z); `fresh` rows have not filtered a frame yet."""

    h: Float[Tensor, "*B D"]
    z: Float[Tensor, "*B S"]
    fresh: Bool[Tensor, "*B"]

    def feat(self) -> Float[Tensor, "*B F"]:
        """[z, h], the input of decoder and heads."""
        return torch.cat([self.z, self.h], -1)


# --- heads


class RewardHead(nn.Module):
    """Features -> the reward received on arriving there.

    normal: unit-variance Gaussian (PlaNet, Dreamer v1 and v2). symlog_two_hot: 255 classes evenly spaced in symlog
    space, averaged there and mapped back by symexp (v3 of 2023). symexp_two_hot: classes at symexp of evenly spaced
    values, averaged as they are (v3 of 2025). Two-hot heads start at exactly zero.
    """

    def __init__(self, kind: str, size: int, config: MLPConfig) -> None:
        super().__init__()
        self.kind = kind
        out = 1 if kind == "normal" else 255
        self.net = MLP(size, out, config, out_scale=1.0 if kind == "normal" else 0.0)
        if kind != "normal":
            self.register_buffer("values", bins(out, spaced=kind.split("_")[0], device="cpu"), persistent=False)

    def forward(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B K"]:
        """Raw outputs, the argument of `mean` and `nll`."""
        return self.net(feat)

    def mean(self, out: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
        """Expected reward."""
        if self.kind == "normal":
            return out[..., 0]
        mean = two_hot_mean(out.float(), cast(Tensor, self.values))
        return symexp(mean) if self.kind == "symlog_two_hot" else mean

    def nll(self, out: Float[Tensor, "*B K"], reward: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Negative log-likelihood in nats; of the Gaussian without its constant ln(2 pi) / 2."""
        if self.kind == "normal":
            return 0.5 * (out[..., 0] - reward).square()
        target = symlog(reward) if self.kind == "symlog_two_hot" else reward
        return two_hot_nll(out.float(), target, cast(Tensor, self.values))


class ContinueHead(nn.Module):
    """Features -> the probability that the episode continues (Bernoulli)."""

    def __init__(self, size: int, config: MLPConfig) -> None:
        super().__init__()
        self.net = MLP(size, 1, config)

    def forward(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B 1"]:
        """Logits, the argument of `mean` and `nll`."""
        return self.net(feat)

    def mean(self, out: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B"]:
        """Probability of continuing."""
        return out[..., 0].sigmoid()

    def nll(self, out: Float[Tensor, "*B 1"], terminal: Bool[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Negative log-likelihood in nats."""
        continues = 1 - terminal.to(out.dtype)
        return nn.functional.binary_cross_entropy_with_logits(out[..., 0], continues, reduction="none")


# --- image preprocessing


def quantize(
    image: Tensor, bits: int, rng: torch.Generator | None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*B C Y X"]:
    """uint8 -> `bits` bits, as floats in -0.5 .. 0.5.

    With an rng the removed bits are replaced by noise (Kingma & Dhariwal 2018), without one by their mean. 8 bits are
    x / 255 - 0.5, and nothing is sampled.
    """
    if bits == 8:
        return image.to(dtype) / 255 - 0.5
    step = 2 ** (8 - bits)
    low = torch.div(image, step, rounding_mode="floor").to(dtype) / 2**bits - 0.5
    if rng is None:
        return low + 0.5 / 2**bits
    noise = torch.rand(image.shape, generator=rng, device=rng.device, dtype=dtype).to(image.device)
    return low + noise / 2**bits


def center(image: Tensor) -> Float[Tensor, "*B C Y X"]:
    """uint8 -> -0.5 .. 0.5; floats pass unchanged."""
    return image.float().div_(255).sub_(0.5) if image.dtype == torch.uint8 else image


def rows_of(x: Tensor, rows: Int64[Tensor, "B R"] | None) -> Tensor:
    """x (B, T, ...) at `rows`; all of x if rows is None."""
    return x if rows is None else gather_rows(x, rows)


# --- the shared model


class StateSpace(Model):
    """Base of RNN, SSM and RSSM, which choose `has_memory` (is there an h?) and `is_stochastic` (is z sampled?)."""

    has_memory = True
    is_stochastic = True
    needs_image = False
    provides = frozenset(
        {"target", "embed", "states", "posterior", "prior", "feat", "reward_hat", "continue_hat", "overshoot"}
    )

    def __init__(self, config: StateSpaceConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.action = config, spec.action
        c, a = config, spec.action.size
        mlp = partial(MLPConfig, norm=c.norm, act=c.act)
        if not self.is_stochastic:
            self.latent: Any = Deterministic(c.stoch)
        else:
            self.latent = Categorical(c.stoch, c.classes, c.unimix) if c.classes else Gaussian(c.stoch, c.min_std)
        self.exact_gradient = not isinstance(self.latent, Categorical)
        optional = {
            "image_hat": "image" in spec.obs,
            "frames": "image" in spec.obs,
            "vectors_hat": bool(set(spec.obs) - {"image"}),
        }
        self.provides = type(self).provides | {name for name, available in optional.items() if available}
        self.memory = c.deter if self.has_memory else 0
        hidden = c.deter if self.has_memory else c.hidden  # output of the dynamics, input of prior and posterior
        features = self.latent.sample_size + self.memory
        vectors, heads = mlp(c.hidden, c.head_layers), mlp(c.head_units, c.head_layers)
        self.encoder = ObsEncoder(spec.obs, c.encoder, c.depth, c.embed, vectors)
        self.decoder = ObsDecoder(spec.obs, c.encoder, features, c.depth, vectors)
        cell = c.cell if self.has_memory else "none"
        self.dynamics: Any = dynamics(cell, self.latent.sample_size, a, c.deter, mlp(c.hidden), c.blocks)
        self.prior = MLP(hidden, self.latent.param_size, mlp(c.hidden, c.prior_layers))
        self.posterior = TwoInputMLP(
            hidden if c.posterior == "coupled" else 0,
            self.encoder.out,
            self.latent.param_size,
            mlp(c.hidden, c.posterior_layers),
        )
        self.reward_head = RewardHead(c.reward, features, heads)
        self.continue_head = ContinueHead(features, heads)
        learned = c.initial_state == "learned" and self.memory
        self.initial_h = nn.Parameter(torch.zeros(self.memory)) if learned else None
        # on bright static scenes, normalised encoders ignore small moving objects: subtract the mean frame
        self.mean_frame: Tensor | None
        self.register_buffer("mean_frame", torch.zeros(spec.image) if c.subtract_mean_frame else None)
        if c.posterior == "decoupled":
            memoryless = frozenset() if self.memory else frozenset({StateSpaceMode.DECOUPLED_MEMORYLESS})
            self.modes = memoryless | {StateSpaceMode.DECOUPLED_POSTERIOR}
            self.remembers = not memoryless
        self._step_fn: Any = torch.compile(self.filter_step) if c.compile == "step" else self.filter_step
        self._loop_fn: Any = torch.compile(self.filter_loop) if c.compile == "unroll" else self.filter_loop

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The partition that routes are declared in."""
        parts = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "dynamics": self.dynamics,
            "prior": self.prior,
            "posterior": self.posterior,
            "reward": self.reward_head,
            "continue": self.continue_head,
        }
        groups = {name: list(part.parameters()) for name, part in parts.items()}
        if self.initial_h is not None:
            groups["dynamics"].append(self.initial_h)
        return groups

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """With `subtract_mean_frame`: set it to the mean of all frames of `batches`, as the networks see them."""
        if self.mean_frame is None:
            return
        bits, dtype = self.config.image_bits, self._like.dtype
        means = [quantize(b.obs["image"], bits, None, dtype).mean((0, 1)) for b in batches]
        self.mean_frame.copy_(torch.stack(means).mean(0))

    @property
    def _like(self) -> Tensor:
        """A parameter, for dtype and device."""
        return self.prior.head.weight

    def noise(self, *shape: int, rng: torch.Generator | None) -> Tensor | None:
        """Noise for samples of z of this leading shape; None without `rng`, which makes every sample the mode."""
        return None if rng is None else self.latent.noise(*shape, like=self._like, rng=rng)

    def initial_latent(self) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "1 S"]]:
        """(h, z) before the first frame: zeros, or tanh of a learned vector and the mode of its prior (Dreamer v3)."""
        like = self._like
        if self.initial_h is None:
            return like.new_zeros(1, self.memory), like.new_zeros(1, self.latent.sample_size)
        h = self.initial_h.tanh()[None]
        z = self.latent.sample(self.prior(h), None)
        return h, stop_gradient(z, "the initial z follows the prior and does not train it")

    # --- acting and imagining

    def start(self, batch: int) -> StateSpaceState:
        """State[B] before the first frame."""
        h, z = self.initial_latent()
        fresh = torch.ones(batch, dtype=torch.bool, device=h.device)
        return StateSpaceState(h.expand(batch, -1), z.expand(batch, -1), fresh)

    def update(
        self,
        state: StateSpaceState,
        action: Float[Tensor, "B A"],
        obs: Mapping[str, Tensor],
        rng: torch.Generator | None = None,
    ) -> StateSpaceState:
        """Filter in one real frame; `action` led to it and is ignored on fresh rows.

        z is a sample of the posterior with `rng`, its mode without.
        """
        embed = self.posterior.precompute(self.encoder(self.preprocess(obs, None)))
        moved = self.dynamics.precompute(action.masked_fill(state.fresh[:, None], 0))
        noise = self.noise(len(action), rng=rng)
        initial = self.initial_latent()
        h, z, _ = self.filter_step(state.h, state.z, state.fresh[:, None], moved, embed, noise, *initial)
        return StateSpaceState(h[..., : self.memory], z, torch.zeros_like(state.fresh))

    def step(
        self, state: StateSpaceState, action: Float[Tensor, "... A"], rng: torch.Generator | None = None
    ) -> StateSpaceState:
        """One imagined step: z is a sample of the prior with `rng`, its mode without."""
        h = self.dynamics(state.h, state.z, self.dynamics.precompute(action))
        z = self.latent.sample(self.prior(h), self.noise(*action.shape[:-1], rng=rng))
        return StateSpaceState(h[..., : self.memory], z, state.fresh)

    def imagine(
        self,
        state: StateSpaceState,
        actions: Float[Tensor, "B N H A"],
        rng: torch.Generator | None = None,
        shared_noise: bool = False,
    ) -> StateSpaceState:
        """State[B] -> State[B, N, H]: N candidate action sequences for each state, the states *after* each action.

        With `rng` each candidate is one sample from the prior, without one every step takes the prior's mode. Noise is
        independent in every row and candidate, or, with `shared_noise`, the same in every row of the batch, so that a
        row's plan does not depend on the other rows.
        """
        b, n, horizon, _ = actions.shape
        moved = self.dynamics.precompute(actions.permute(2, 0, 1, 3).reshape(horizon, b * n, -1)).unbind()
        noise = self.noise(horizon, n if shared_noise else b * n, rng=rng)
        h, z = (x[:, None].expand(-1, n, -1).reshape(b * n, -1) for x in (state.h, state.z))
        hs, zs = [], []
        for k in range(horizon):
            h = self.dynamics(h, z, moved[k])
            now = None if noise is None else noise[k]
            if now is not None and shared_noise:
                now = now.expand(b, *now.shape).flatten(0, 1)
            z = self.latent.sample(self.prior(h), now)
            hs.append(h[:, : self.memory])
            zs.append(z)
        h, z = (torch.stack(x, 1).unflatten(0, (b, n)) for x in (hs, zs))
        return StateSpaceState(h, z, state.fresh[:, None, None].expand(b, n, horizon))

    # --- reading a state

    def decode(self, state: StateSpaceState) -> Float[Tensor, "*B C Y X"]:
        """The expected image, about 0..1."""
        return self.decoder.image(state.feat()) + 0.5 + (0 if self.mean_frame is None else self.mean_frame)

    def rewards(self, state: StateSpaceState) -> Float[Tensor, "*B"]:
        """Expected reward of arriving in `state`."""
        return self.reward_head.mean(self.reward_head(state.feat()))

    def continues(self, state: StateSpaceState) -> Float[Tensor, "*B"]:
        """Probability that the episode continues after `state`."""
        return self.continue_head.mean(self.continue_head(state.feat()))

    # --- observing: encode, filter, heads

    def preprocess(self, obs: Mapping[str, Tensor], rng: torch.Generator | None) -> dict[str, Tensor]:
        """Encoder inputs {name: (B, T, ...)}: quantized images around 0, vectors through symlog.

        An image that keeps all of its 8 bits stays uint8 for the networks that take uint8. `rng`: see `quantize`.
        """
        squash = symlog if self.config.symlog else lambda x: x
        return {
            name: self._preprocess_image(obs[name], rng) if name == "image" else squash(obs[name])
            for name in self.encoder.parts
        }

    def _preprocess_image(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        mean, is_uint8 = self.mean_frame, image.dtype == torch.uint8
        if is_uint8 and mean is None and self.config.image_bits == 8 and self.config.encoder in ENCODERS:
            return image
        image = quantize(image, self.config.image_bits, rng, self._like.dtype) if is_uint8 else image - 0.5
        return image if mean is None else image - mean

    def encode(self, batch: Batch, needs: frozenset[str], rng: torch.Generator | None) -> dict[str, Any]:
        """embed (B,T,E), the input of `filter`, and the `targets`."""
        inputs = self.preprocess(batch.obs, rng)
        return {"embed": self.encoder(inputs), **self.targets(inputs, batch, needs, rng)}

    def targets(
        self, inputs: Mapping[str, Tensor], batch: Batch, needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """What decoded observations are compared with, as far as needed::

        target {name: (B,T,...)}, its image at the decoded rows only (B,R,C,Y,X)
        frames (B,T,C,Y,X): every image
        decoded_rows (B,R), or None for every row: `decode_rows` of each window, sampled by `rng` (without: all)
        """
        rows = self._sample_rows(batch, rng) if "image_hat" in needs else None
        fields: dict[str, Any] = {"decoded_rows": rows}
        if "target" in needs:
            fields["target"] = {k: center(rows_of(x, rows)) if k == "image" else x for k, x in inputs.items()}
        if "frames" in needs:
            fields["frames"] = center(inputs["image"])
        return fields

    def _sample_rows(self, batch: Batch, rng: torch.Generator | None) -> Int64[Tensor, "B R"] | None:
        count, device = self.config.decode_rows, batch.action.device
        if rng is None or not 0 < count < batch.shape[1]:
            return None
        return torch.rand(batch.shape, generator=rng, device=rng.device).to(device).topk(count, 1).indices

    def filter(
        self, batch: Batch, fields: Mapping[str, Any], needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """Filter along each window; the first row of a window and of an episode starts from the initial latent::

            posterior, prior: distributions (B,T,...)   feat (B,T,F)   states: StateSpaceState (B,T)

        z is a sample of the posterior with `rng`, its mode without.
        """
        h, z, raw = self.unroll(batch, fields["embed"], rng)
        posterior, prior = self.latent.dist(raw), self.latent.dist(self.prior(h))
        feat = torch.cat([z, h[..., : self.memory]], -1)
        states = StateSpaceState(h[..., : self.memory], z, torch.zeros_like(batch.first))
        return {"posterior": posterior, "prior": prior, "feat": feat, "states": states}

    def heads(
        self, batch: Batch, fields: Mapping[str, Any], needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """What decoder and heads make of the features, as far as needed::

        image_hat (B,R,C,Y,X), at the decoded rows   vectors_hat {name: (B,T,...)}   overshoot: Overshoot
        reward_hat (B,T,K), continue_hat (B,T,1): raw, for the heads' `mean` and `nll`
        """
        feat, out = fields["feat"], {}
        if "image_hat" in needs:
            out["image_hat"] = self.decoder.image(rows_of(feat, fields["decoded_rows"]))
        if "vectors_hat" in needs:
            out["vectors_hat"] = self.decoder.vectors(feat)
        if "reward_hat" in needs:
            out["reward_hat"] = self.reward_head(feat)
        if "continue_hat" in needs:
            out["continue_hat"] = self.continue_head(feat)
        if "overshoot" in needs:
            out["overshoot"] = self.overshoot(fields["states"], batch, rng)
        return out

    # --- the loop over time

    def unroll(
        self, batch: Batch, embed: Float[Tensor, "B T E"], rng: torch.Generator | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T S"], Float[Tensor, "B T R"]]:
        """h as the prior reads it, z, and the posterior's raw parameters, of every row.

        Projections of actions and embeddings, and all noise, are made for every row at once, time first.
        """
        b, length = batch.shape
        first = batch.first.clone()
        first[:, 0] = True
        previous = torch.cat([torch.zeros_like(batch.action[:, :1]), batch.action[:, :-1]], 1)  # it led to this row
        moved = self.dynamics.precompute(previous.masked_fill(first[..., None], 0).transpose(0, 1).to(embed.dtype))
        looked = self.posterior.precompute(embed).transpose(0, 1).contiguous()  # (T, B, U)
        first = first.T[..., None].contiguous()  # (T, B, 1)
        noise = self.noise(length, b, rng=rng)
        h, z = (x.expand(b, -1) for x in self.initial_latent())
        if self.config.posterior == "decoupled":
            return self._unroll_decoupled(first, moved, looked, noise, h, z)
        return self._loop_fn(first, moved, looked, noise, h, z)

    def _unroll_decoupled(
        self, first: Tensor, moved: Tensor, looked: Tensor, noise: Tensor | None, h0: Tensor, z0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The decoupled posterior does not depend on h: all z at once, only the dynamics in a loop."""
        raw = self.posterior(None, looked)  # (T, B, R)
        z = self.latent.sample(raw, noise)
        previous = torch.where(first, z0, torch.cat([z0[None], z[:-1]]))
        h, hs = h0, []
        with defer_weight_grad(self.dynamics):
            for new, last, action in zip(first, previous.unbind(), moved.unbind(), strict=True):
                h = self.dynamics(torch.where(new, h0, h[..., : self.memory]), last, action)
                hs.append(h)
        return torch.stack(hs, 1), z.transpose(0, 1), raw.transpose(0, 1)

    def filter_loop(
        self, first: Tensor, moved: Tensor, looked: Tensor, noise: Tensor | None, h0: Tensor, z0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`filter_step` over all rows; inputs (T, B, ...), outputs (B, T, ...)."""
        h, z = h0, z0
        hs, zs, raws = [], [], []
        noises = [None] * len(moved) if noise is None else noise.unbind()
        with defer_weight_grad(self.dynamics, self.posterior, enabled=self.config.compile == "none"):
            # unbind before the loop: the backward of x[t] would write all of x, for every t
            for new, action, embed, sample in zip(first, moved.unbind(), looked.unbind(), noises, strict=True):
                h, z, raw = self._step_fn(h[..., : self.memory], z, new, action, embed, sample, h0, z0)
                hs.append(h)
                zs.append(z)
                raws.append(raw)
        return torch.stack(hs, 1), torch.stack(zs, 1), torch.stack(raws, 1)

    def filter_step(
        self,
        h: Tensor,
        z: Tensor,
        first: Tensor,
        moved: Tensor,
        looked: Tensor,
        noise: Tensor | None,
        h0: Tensor,
        z0: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One row: reset where an episode starts, dynamics, posterior, sample; `moved` and `looked` are precomputed."""
        h, z = torch.where(first, h0, h), torch.where(first, z0, z)
        h = self.dynamics(h, z, moved)
        raw = self.posterior(h, looked)
        return h, self.latent.sample(raw, noise), raw

    # --- overshooting

    def overshoot(self, states: StateSpaceState, batch: Batch, rng: torch.Generator | None) -> Overshoot:
        """Imagine `config.overshoot` steps from posteriors with the actions of the data, all starts as one batch.

        (PlaNet, eq. 7.) One rollout, shared by every overshooting loss. Raises UserError without room in the window.
        """
        depth, length = self.config.overshoot, batch.shape[1]
        if not 0 < depth < length:
            raise UserError(
                f"model.overshoot = {depth}: the overshooting losses need 1 to {length - 1} steps in windows of "
                f"{length} rows; change it or train.length"
            )
        start = sample_starts(batch, self.config.rollout_starts, rng)  # (B, S)
        rows, valid = rows_after(batch, start, depth)  # (B, S, D)
        actions = gather_rows(batch.action, rows - 1).flatten(0, 1).transpose(0, 1)  # (D, B S, A)
        moved = self.dynamics.precompute(actions.to(states.h.dtype)).unbind()
        noise = self.noise(depth, actions.shape[1], rng=rng)
        h, z = (gather_rows(x, start).flatten(0, 1) for x in (states.h, states.z))  # (B S, ...)
        feats, raws = [], []
        with defer_weight_grad(self.dynamics, self.prior):
            for k in range(depth):
                hidden = self.dynamics(h, z, moved[k])
                raw = self.prior(hidden)
                z = self.latent.sample(raw, None if noise is None else noise[k])
                h = hidden[:, : self.memory]
                feats.append(torch.cat([z, h], -1))
                raws.append(raw)
        feat, raw = (torch.stack(x, 1).unflatten(0, tuple(start.shape)) for x in (feats, raws))
        return Overshoot(start, rows, valid, self.latent.dist(raw), feat)


@dataclass(frozen=True)
class Overshoot(Struct):
    """Depth d = 1..D from each start: the prior of row start + d, given the posterior at `start` and the actions since.

    `valid` is False where the episode or the window ends before that row.
    """

    start: Int64[Tensor, "B S"]
    rows: Int64[Tensor, "B S D"]  # the predicted rows, clamped to the window
    valid: Bool[Tensor, "B S D"]
    prior: Any  # distribution (B, S, D, ...)
    feat: Float[Tensor, "B S D F"]  # features of the imagined states

    def target(self, value: Any) -> Any:
        """A field (B, T, ...), or a Struct of them, at the predicted rows: (B, S, D, ...)."""
        return value.map(self.target) if isinstance(value, Struct) else gather_rows(value, self.rows)


def sample_starts(batch: Batch, count: int, rng: torch.Generator | None) -> Int64[Tensor, "B S"]:
    """Rows to start from: `count` per window at random (UserError without rng), or every row but the last (0)."""
    b, length = batch.shape
    device = batch.action.device
    if not count:
        return torch.arange(length - 1, device=device).expand(b, -1)
    if rng is None:
        raise UserError("overshooting samples its start rows (model.rollout_starts > 0): pass an rng to observe")
    return torch.randint(length - 1, (b, count), generator=rng, device=rng.device).to(device)


def rows_after(
    batch: Batch, start: Int64[Tensor, "B S"], depth: int
) -> tuple[Int64[Tensor, "B S D"], Bool[Tensor, "B S D"]]:
    """The rows start + 1 .. start + D, and whether each is in the window and in the start's episode."""
    length = batch.shape[1]
    rows = start[..., None] + torch.arange(1, depth + 1, device=start.device)  # (B, S, D)
    inside, rows = rows < length, rows.clamp_max(length - 1)
    connected = gather_rows(batch.connected(1), rows - 1)  # row - 1 and row are neighbours in one episode
    return rows, (inside & connected).cumprod(-1).bool()


# --- the three models


@dataclass(frozen=True)
class RnnConfig(StateSpaceConfig):
    """Options of the RNN, which ignores `classes`, `unimix` and `min_std`."""

    name: ClassVar[str] = "rnn"


@register("model", "rnn")
class RNN(StateSpace):
    """The deterministic model: z is a point, and there is one future for every state. (PlaNet, eq. 3, without noise)

    Its "KL" is half the squared distance between prior and posterior, so the same losses train all three models.
    """

    Config = RnnConfig
    is_stochastic = False


@dataclass(frozen=True)
class SsmConfig(StateSpaceConfig):
    """Options of the SSM, which ignores `deter`, `cell`, `blocks` and `initial_state`."""

    name: ClassVar[str] = "ssm"


@register("model", "ssm")
class SSM(StateSpace):
    """The stochastic model: z_t ~ p(z_t | z_{t-1}, a_{t-1}); all memory passes through samples. (PlaNet, eq. 2)"""

    Config = SsmConfig
    has_memory = False


@dataclass(frozen=True)
class RssmConfig(StateSpaceConfig):
    """Options of the RSSM."""

    name: ClassVar[str] = "rssm"


@register("model", "rssm")
class RSSM(StateSpace):
    """The recurrent state-space model: a deterministic memory h and a sample z beside it. (PlaNet, eq. 4)"""

    Config = RssmConfig
