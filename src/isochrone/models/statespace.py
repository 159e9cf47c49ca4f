"""What a state-space model is told, and what it believes.

Heads on the features of a state-space model: reward and continuation, each with its mean and its likelihood.

Rollouts of the prior from many posteriors at once, shared by every overshooting loss. (PlaNet, eq. 7)

A window of rows through a state-space model: everything that does not hang on h or z is computed before the loop.

What RNN, SSM and RSSM share: filter, imagine, observe. (PlaNet, Hafner et al. 2019; Dreamer v1-v3.)

Row t holds the action taken *at* o_t, so with h the memory, z the sample and e the embedding of what is seen::

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    prior p(z_t | h_t)    posterior q(z_t | h_t, e_t)    features [z_t, h_t]

An RNN's z is a point, an SSM has no h but through z. Only f, the posterior and the draw run inside the loop over time.

The deterministic model: one future for every belief. (PlaNet, Hafner et al. 2019, eq. 3)

The stochastic state-space model: all that lasts must pass through samples. (PlaNet, Hafner et al. 2019, eq. 2)

The recurrent state-space model: a memory without noise, a sample beside it. (PlaNet, Hafner et al. 2019, eq. 4)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.registry import register
from isochrone.core.types import Batch, Rollout, Spec, Struct
from isochrone.models.base import Model
from isochrone.models.openloop import gather_rows
from isochrone.nets.distributions import Categorical, Gaussian, Point, bins, symexp, symlog, two_hot_mean, two_hot_nll
from isochrone.nets.image import ENCODERS, Decoder, Encoder
from isochrone.nets.linear import gathering
from isochrone.nets.mlp import Fork, Perceptron
from isochrone.nets.recurrent import dynamics


@dataclass(frozen=True)
class StateSpaceConfig:
    """Sizes and choices of a state-space model. The presets planet, dreamer_v1, v2 and v3 are recipes."""

    deter: int = option(200, "size of h, the memory (0 in an SSM)", ge=0)
    stoch: int = option(30, "size of z; with classes: number of groups", ge=1)
    classes: int = option(0, "classes per group of z; 0: z is Gaussian", ge=0)
    hidden: int = option(200, "width of the perceptrons inside", ge=4)
    cell: Literal["gru", "ln_gru", "block_gru"] = option("gru", "how h is kept")
    blocks: int = option(8, "blocks of a block_gru", ge=1)
    norm: Literal["none", "layer", "rms"] = option("none", "normalisation inside the perceptrons")
    act: Literal["relu", "elu", "silu", "none"] = option("elu", "their activation")
    unimix: float = option(0.01, "share of even odds in a categorical z", ge=0, lt=1)
    min_std: float = option(0.1, "least standard deviation of a Gaussian z", gt=0)
    prior_layers: int = option(1, "hidden layers of the prior", ge=0)
    posterior_layers: int = option(1, "hidden layers of the posterior", ge=1)
    posterior: Literal["coupled", "decoupled"] = option("coupled", "decoupled: q(z | o) does not look at h")
    initial_state: Literal["zeros", "learned"] = option("zeros", "state before the first frame")
    encoder: Literal["planet", "dreamer", "patch", "conv"] = option("planet", "image networks")
    subtract_mean_frame: bool = option(
        False, "see and show only what differs from the mean frame of the first recordings"
    )
    depth: int = option(32, "channels of the encoder's first layer", ge=4)
    embed: int = option(256, "size of a patch or conv embedding, and of every vector's", ge=4)
    symlog: bool = option(True, "pass vector observations through symlog, in and out")
    image_bits: int = option(8, "bits of an image that are kept (PlaNet: 5, the rest noise)", ge=1, le=8)
    head_units: int = option(200, "width of the reward and continue heads", ge=4)
    head_layers: int = option(2, "their hidden layers, and those of vectors", ge=0)
    reward: Literal["normal", "symlog_two_hot", "symexp_two_hot"] = option("normal", "likelihood of the reward")
    decode_rows: int = option(
        0, "rows of each window that are decoded in training, drawn anew each time (0: all)", ge=0
    )
    overshoot: int = option(0, "D: steps imagined from posteriors for the overshooting losses; 0: none", ge=0)
    rollout_starts: int = option(0, "posteriors per window that they begin from; 0: every row", ge=0)
    compile: Literal["none", "step", "unroll"] = option(
        "none", "torch.compile the step, the whole loop over time, or nothing"
    )

    def check(self, path: str) -> None:
        """Sizes that must divide. UserError."""
        if self.cell == "block_gru" and self.deter % self.blocks:
            raise UserError(f"{path}deter = {self.deter}: a block_gru needs a multiple of {path}blocks = {self.blocks}")

    def check_window(self, length: int, path: str) -> None:
        """Windows of `length` rows must hold an overshooting rollout. UserError."""
        if self.overshoot >= length:
            raise UserError(
                f"{path}overshoot = {self.overshoot}: windows have only train.length = {length} rows; "
                f"lower it below {length}, or raise train.length"
            )


@dataclass(frozen=True)
class Belief(Struct):
    """(h, z), and whether the row has seen nothing yet."""

    deter: Float[Tensor, "*B D"]
    stoch: Float[Tensor, "*B S"]
    fresh: Bool[Tensor, "*B"]

    def feat(self) -> Float[Tensor, "*B F"]:
        return torch.cat([self.stoch, self.deter], -1)


REWARDS = ("normal", "symlog_two_hot", "symexp_two_hot")


class RewardHead(nn.Module):
    """Features -> the reward received on arriving there.

    normal: unit-variance Gaussian (PlaNet, Dreamer v1 and v2). symlog_two_hot: 255 classes evenly spaced in symlog
    space, decoded there and expanded (v3 of 2023). symexp_two_hot: classes at symexp of even places, decoded as the
    mean of those places (v3 of 2025). Two-hot heads start at exactly zero.
    """

    def __init__(self, kind: str, size: int, hidden: int, layers: int, norm: str, act: str) -> None:
        super().__init__()
        self.kind = kind
        out = 1 if kind == "normal" else 255
        self.net = Perceptron(size, out, hidden, layers, norm, act, last=1.0 if kind == "normal" else 0.0)
        if kind != "normal":
            self.register_buffer("places", bins(out, spaced=kind.split("_")[0]), persistent=False)

    def forward(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B K"]:
        """What `mean` and `nll` read."""
        return self.net(feat)

    def mean(self, out: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
        """Expected reward."""
        if self.kind == "normal":
            return out[..., 0]
        found = two_hot_mean(out.float(), cast(Tensor, self.places))
        return symexp(found) if self.kind == "symlog_two_hot" else found

    def nll(self, out: Float[Tensor, "*B K"], reward: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Negative log-likelihood in nats; of the Gaussian without its constant ln(2 pi) / 2."""
        if self.kind == "normal":
            return 0.5 * (out[..., 0] - reward).square()
        target = symlog(reward) if self.kind == "symlog_two_hot" else reward
        return two_hot_nll(out.float(), target, cast(Tensor, self.places))


class ContinueHead(nn.Module):
    """Features -> does the episode go on? Bernoulli."""

    def __init__(self, size: int, hidden: int, layers: int, norm: str, act: str) -> None:
        super().__init__()
        self.net = Perceptron(size, 1, hidden, layers, norm, act)

    def forward(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B 1"]:
        """Logits, as `mean` and `nll` read them."""
        return self.net(feat)

    def mean(self, out: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B"]:
        """Probability of going on."""
        return out[..., 0].sigmoid()

    def nll(self, out: Float[Tensor, "*B 1"], terminal: Bool[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Negative log-likelihood in nats."""
        goes_on = 1 - terminal.to(out.dtype)
        return nn.functional.binary_cross_entropy_with_logits(out[..., 0], goes_on, reduction="none")


def quantised(
    image: Tensor, bits: int, rng: torch.Generator | None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*B C Y X"]:
    """uint8 -> `bits` bits, centred: -0.5 .. 0.5.

    With an rng the lost bits are filled with noise (Kingma & Dhariwal 2018), without one with their mean. 8 bits pass
    as x / 255 - 0.5, and nothing is drawn.
    """
    if bits == 8:
        return image.to(dtype) / 255 - 0.5
    step = 2 ** (8 - bits)
    low = torch.div(image, step, rounding_mode="floor").to(dtype) / 2**bits - 0.5
    if rng is None:
        return low + 0.5 / 2**bits
    noise = torch.rand(image.shape, generator=rng, device=rng.device, dtype=dtype).to(image.device)
    return low + noise / 2**bits


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
        raise UserError("overshooting draws its starts (model.rollout_starts > 0): give observe an rng")
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
    start = starts_of(batch, model.config.rollout_starts, rng)  # (B, S)
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


Unrolled = tuple[Tensor, Tensor, Tensor]
"""h (B,T,D) as the prior sees it, z (B,T,S), the posterior's raw numbers (B,T,R)."""


def unroll(model: Any, batch: Batch, embed: Float[Tensor, "B T E"], rng: torch.Generator | None) -> Unrolled:
    """Beliefs along each window; the first row of a window, and of an episode, begins anew.

    Projections of actions and frames, and all noise, are made for every row at once and time first.
    """
    b, length = batch.shape
    first = batch.first.clone()
    first[:, 0] = True
    before = torch.cat([torch.zeros_like(batch.action[:, :1]), batch.action[:, :-1]], 1)  # the action that led here
    ahead = model.dynamics.ahead(before.masked_fill(first[..., None], 0).transpose(0, 1).to(embed.dtype))
    seen = model.posterior.ahead(embed).transpose(0, 1).contiguous()  # (T, B, U)
    begins = first.T[..., None].contiguous()  # (T, B, 1)
    noise = model.noise(length, b, rng=rng)
    h, z = (x.expand(b, -1) for x in model.begin())
    if model.config.posterior == "decoupled":
        return _apart(model, begins, ahead, seen, noise, h, z)
    return model.loop(begins, ahead, seen, noise, h, z)


def _apart(
    model: Any, first: Tensor, ahead: Tensor, seen: Tensor, noise: Tensor | None, h0: Tensor, z0: Tensor
) -> Unrolled:
    """The decoupled posterior: all z at once, only the memory in a loop."""
    raw = model.posterior(None, seen)  # (T, B, R)
    z = model.latent.sample(raw, noise)
    before = torch.where(first, z0, torch.cat([z0[None], z[:-1]]))
    h, hs = h0, []
    with gathering(model.dynamics):
        for begins, last, moved in zip(first, before.unbind(), ahead.unbind(), strict=True):
            h = model.dynamics(torch.where(begins, h0, h[..., : model.memory]), last, moved)
            hs.append(h)
    return torch.stack(hs, 1), z.transpose(0, 1), raw.transpose(0, 1)


class StateSpace(Model):
    """Base of rnn, ssm and rssm, which say whether there is a memory (`deterministic`) and chance (`stochastic`)."""

    deterministic = True
    stochastic = True
    draws = True
    pixels = False
    provides = frozenset({"target", "embed", "posterior", "prior", "feat", "reward_hat", "continue_hat", "overshoot"})

    def __init__(self, config: StateSpaceConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.action = config, spec.action
        c, a = config, spec.action.size
        inner = (c.norm, c.act)
        if not self.stochastic:
            self.latent: Any = Point(c.stoch)
        else:
            self.latent = Categorical(c.stoch, c.classes, c.unimix) if c.classes else Gaussian(c.stoch, c.min_std)
        shown = {
            "image_hat": "image" in spec.obs,
            "frames": "image" in spec.obs,
            "vectors_hat": bool(set(spec.obs) - {"image"}),
        }
        self.provides = type(self).provides | {name for name, there in shown.items() if there}
        self.memory = c.deter if self.deterministic else 0
        belief = c.deter if self.deterministic else c.hidden  # what prior and posterior look at
        features = self.latent.flat + self.memory
        self.encoder = Encoder(spec.obs, c.encoder, c.depth, c.embed, c.hidden, c.head_layers, *inner)
        self.decoder = Decoder(spec.obs, c.encoder, features, c.depth, c.hidden, c.head_layers, *inner)
        cell = c.cell if self.deterministic else "none"
        self.dynamics: Any = dynamics(cell, self.latent.flat, a, c.deter, c.hidden, *inner, c.blocks)
        self.prior = Perceptron(belief, self.latent.raw, c.hidden, c.prior_layers, *inner)
        looks = belief if c.posterior == "coupled" else 0
        self.posterior = Fork(looks, self.encoder.out, self.latent.raw, c.hidden, c.posterior_layers, *inner)
        self.reward_head = RewardHead(c.reward, features, c.head_units, c.head_layers, *inner)
        self.continue_head = ContinueHead(features, c.head_units, c.head_layers, *inner)
        self.initial = nn.Parameter(torch.zeros(self.memory)) if c.initial_state == "learned" and self.memory else None
        # where a bright scene never moves, a network that is normalised inside sees it and little else for long
        self.still: Tensor | None
        self.register_buffer("still", torch.zeros(spec.image) if c.subtract_mean_frame else None)
        if c.posterior == "decoupled":
            self.modes = frozenset(
                {"decoupled_posterior"} if self.memory else {"decoupled_posterior", "decoupled_memoryless"}
            )
        self._step: Any = torch.compile(self._filter) if c.compile == "step" else self._filter
        self.loop: Any = torch.compile(self.unrolled) if c.compile == "unroll" else self.unrolled

    # --- parts

    def look(self, image: Tensor) -> Float[Tensor, "*B E"]:
        """image (..., C, Y, X), uint8 -> its embedding, where pixels are all there is to see."""
        return self.encoder({"image": self._seen_image(image, None)})

    def decode(self, feat: Float[Tensor, "*B F"]) -> Float[Tensor, "*B C Y X"]:
        """Features -> image, about 0..1."""
        return self.decoder.image(feat) + 0.5 + (0 if self.still is None else self.still)

    def rewards(self, state: Belief) -> Float[Tensor, "*B"]:
        """Expected reward of being in `state`."""
        return self.reward_head.mean(self.reward_head(state.feat()))

    def continues(self, state: Belief) -> Float[Tensor, "*B"]:
        """Probability that the episode goes on from `state`."""
        return self.continue_head.mean(self.continue_head(state.feat()))

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
        found = {name: list(part.parameters()) for name, part in parts.items()}
        if self.initial is not None:
            found["dynamics"].append(self.initial)
        return found

    @property
    def _like(self) -> Tensor:
        return self.prior.head.weight

    def begin(self) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "1 S"]]:
        """(h, z) before anything is seen: zeros, or tanh of a learned vector and the mode of its prior (Dreamer v3)."""
        like = self._like
        if self.initial is None:
            return like.new_zeros(1, self.memory), like.new_zeros(1, self.latent.flat)
        h = self.initial.tanh()[None]
        z = self.latent.sample(self.prior(h), None)
        return h, stop_gradient(z, "where z begins follows the prior, it does not shape it")

    @torch.no_grad()
    def prime(self, batches: Iterable[Batch]) -> None:
        """With `subtract_mean_frame`: the mean of all frames, as the networks see them, is what stands still."""
        if self.still is None:
            return
        means = [
            quantised(b.obs["image"], self.config.image_bits, None, self._like.dtype).mean((0, 1)) for b in batches
        ]
        self.still.copy_(torch.stack(means).mean(0))

    def _seen_image(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        still, raw = self.still, image.dtype == torch.uint8
        if raw and still is None and self.config.image_bits == 8 and self.config.encoder in ENCODERS:
            return image
        image = quantised(image, self.config.image_bits, rng, self._like.dtype) if raw else image - 0.5
        return image if still is None else image - still

    def noise(self, *shape: int, rng: torch.Generator | None) -> Tensor | None:
        return None if rng is None else self.latent.noise(*shape, like=self._like, rng=rng)

    # --- acting and imagining

    def start(self, batch: int) -> Belief:
        """A belief that has seen nothing."""
        h, z = self.begin()
        fresh = torch.ones(batch, dtype=torch.bool, device=h.device)
        return Belief(h.expand(batch, -1), z.expand(batch, -1), fresh)

    def update(
        self,
        state: Belief,
        action: Float[Tensor, "B A"],
        obs: Mapping[str, Tensor],
        rng: torch.Generator | None = None,
    ) -> Belief:
        """Filter one real frame in; `action` is the one that led to it (ignored on fresh rows).

        z is drawn from the posterior with `rng`, and its mode without.
        """
        embed = self.posterior.ahead(self.encoder(self._seen(obs, None)))
        ahead = self.dynamics.ahead(action.masked_fill(state.fresh[:, None], 0))
        noise = self.noise(len(action), rng=rng)
        start = self.begin()
        h, z, _ = self._filter(state.deter, state.stoch, state.fresh[:, None], ahead, embed, noise, *start)
        return Belief(h[..., : self.memory], z, torch.zeros_like(state.fresh))

    def step(self, state: Belief, action: Float[Tensor, "... A"], noise: Tensor | None = None) -> Belief:
        """One imagined step: z from the prior, its mode without `noise`."""
        h = self.dynamics(state.deter, state.stoch, self.dynamics.ahead(action))
        return Belief(h[..., : self.memory], self.latent.sample(self.prior(h), noise), state.fresh)

    def imagine(self, state: Belief, actions: Float[Tensor, "B N H A"], rng: torch.Generator | None = None) -> Belief:
        """Roll each candidate through the prior: State[B] -> State[B, N, H], the states *after* each action.

        With `rng` one trajectory is drawn per candidate, by noise that the rows of the batch share: a row's plan does
        not depend on its neighbours. Without one every step takes the prior's mode.
        """
        b, n, horizon, _ = actions.shape
        ahead = self.dynamics.ahead(actions.permute(2, 0, 1, 3).reshape(horizon, b * n, -1)).unbind()
        noise = self.noise(horizon, n, rng=rng)
        h, z = (x[:, None].expand(-1, n, -1).reshape(b * n, -1) for x in (state.deter, state.stoch))
        hs, zs = [], []
        for k in range(horizon):
            h = self.dynamics(h, z, ahead[k])
            drawn = None if noise is None else noise[k].expand(b, *noise.shape[1:]).flatten(0, 1)
            z = self.latent.sample(self.prior(h), drawn)
            hs.append(h[:, : self.memory])
            zs.append(z)
        deter, stoch = (torch.stack(x, 1).unflatten(0, (b, n)) for x in (hs, zs))
        return Belief(deter, stoch, state.fresh[:, None, None].expand(b, n, horizon))

    # --- observing

    def observe(self, batch: Batch, needs: Iterable[str], rng: torch.Generator | None = None) -> Rollout:
        """Fill the asked fields; z is drawn with `rng` and is the posterior's mode without::

        embed (B,T,E)   posterior, prior: beliefs (B,T,...)   feat (B,T,F)   overshoot: Overshoot
        image_hat (B,R,C,Y,X), `decode_rows` rows of each window drawn by `rng` (without one: every row)
        vectors_hat {name: (B,T,...)}   target {name: what the decoder should show, at the same rows}
        frames (B,T,C,Y,X): every image as a target
        reward_hat (B,T,K), continue_hat (B,T,1): raw, for the heads' `mean` and `nll`
        """
        needs = self.wants(needs)
        seen = self._seen(batch.obs, rng)
        out: dict[str, Any] = {"embed": self.encoder(seen)}
        rows = self._decoded(batch, rng) if "image_hat" in needs else None
        if "target" in needs:
            out["target"] = {name: _centred(_at(x, rows)) if name == "image" else x for name, x in seen.items()}
        if "frames" in needs:
            out["frames"] = _centred(seen["image"])
        if needs <= set(out):
            return Rollout(batch, out, rng)
        h, z, raw = unroll(self, batch, out["embed"], rng)
        out["posterior"] = self.latent.belief(raw)
        out["prior"] = self.latent.belief(self.prior(h))
        out["feat"] = feat = torch.cat([z, h[..., : self.memory]], -1)
        if "image_hat" in needs:
            out["image_hat"] = self.decoder.image(_at(feat, rows))
        if "vectors_hat" in needs:
            out["vectors_hat"] = self.decoder.vectors(feat)
        if "reward_hat" in needs:
            out["reward_hat"] = self.reward_head(feat)
        if "continue_hat" in needs:
            out["continue_hat"] = self.continue_head(feat)
        if "overshoot" in needs:
            out["overshoot"] = overshoot(self, h[..., : self.memory], z, batch, rng)
        return Rollout(batch, out, rng)

    def _seen(self, obs: Mapping[str, Tensor], rng: torch.Generator | None) -> dict[str, Tensor]:
        """What goes into the encoder; an image that keeps its 8 bits stays bytes until the networks that take bytes."""
        plain = {name: obs[name] for name in self.encoder.parts}
        squash = symlog if self.config.symlog else lambda x: x
        return {k: self._seen_image(v, rng) if k == "image" else squash(v) for k, v in plain.items()}

    def _decoded(self, batch: Batch, rng: torch.Generator | None) -> Int64[Tensor, "B R"] | None:
        """Rows of each window that are decoded, drawn without repetition; None: every row."""
        count, device = self.config.decode_rows, batch.action.device
        if rng is None or not 0 < count < batch.shape[1]:
            return None
        return torch.rand(batch.shape, generator=rng, device=rng.device).to(device).topk(count, 1).indices

    def unrolled(
        self, first: Tensor, ahead: Tensor, seen: Tensor, noise: Tensor | None, h0: Tensor, z0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, z = h0, z0
        hs, zs, raws = [], [], []
        draws = [None] * len(ahead) if noise is None else noise.unbind()
        with gathering(self.dynamics, self.posterior, on=self.config.compile == "none"):
            # unbound at once: the backward of x[t] writes all of x, for every t
            for begins, moved, looked, drawn in zip(first, ahead.unbind(), seen.unbind(), draws, strict=True):
                h, z, raw = self._step(h[..., : self.memory], z, begins, moved, looked, drawn, h0, z0)
                hs.append(h)
                zs.append(z)
                raws.append(raw)
        return torch.stack(hs, 1), torch.stack(zs, 1), torch.stack(raws, 1)

    def _filter(
        self,
        h: Tensor,
        z: Tensor,
        first: Tensor,
        ahead: Tensor,
        seen: Tensor,
        noise: Tensor | None,
        h0: Tensor,
        z0: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One row: begin again where an episode does, remember, look, draw."""
        h, z = torch.where(first, h0, h), torch.where(first, z0, z)
        h = self.dynamics(h, z, ahead)
        raw = self.posterior(h, seen)
        return h, self.latent.sample(raw, noise), raw


def _centred(image: Tensor) -> Float[Tensor, "*B C Y X"]:
    """Bytes -> -0.5 .. 0.5; what is centred already passes."""
    return image.float().div_(255).sub_(0.5) if image.dtype == torch.uint8 else image


def _at(x: Tensor, rows: Int64[Tensor, "B R"] | None) -> Tensor:
    """x (B, T, ...) at the rows; everything where rows is None."""
    return x if rows is None else gather_rows(x, rows)


@dataclass(frozen=True)
class RnnConfig(StateSpaceConfig):
    """Options of the RNN; `classes`, `unimix` and `min_std` have no meaning here."""

    name: ClassVar[str] = "rnn"


@register("model", "rnn")
class RNN(StateSpace):
    """z is a point: what the frame says when it is seen, what memory expects of it when it is not.

    Its "KL" is half the squared distance between the two, so the same losses train all three kinds.
    """

    Config = RnnConfig
    stochastic = False


@dataclass(frozen=True)
class SsmConfig(StateSpaceConfig):
    """Options of the SSM; `deter`, `cell`, `blocks` and `initial_state` have no meaning here."""

    name: ClassVar[str] = "ssm"


@register("model", "ssm")
class SSM(StateSpace):
    """z_t ~ p(z_t | z_{t-1}, a_{t-1}), and nothing beside it."""

    Config = SsmConfig
    deterministic = False


@dataclass(frozen=True)
class RssmConfig(StateSpaceConfig):
    """Options of the RSSM."""

    name: ClassVar[str] = "rssm"


@register("model", "rssm")
class RSSM(StateSpace):
    """h keeps what lasts, z says what may happen."""

    Config = RssmConfig
