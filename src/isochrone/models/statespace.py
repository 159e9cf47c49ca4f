"""What RNN, SSM and RSSM share: filter, imagine, observe. (PlaNet, Hafner et al. 2019; Dreamer v1-v3.)

Row t holds the action taken *at* o_t, so with h the memory, z the sample and e the embedding of what is seen::

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    prior p(z_t | h_t)    posterior q(z_t | h_t, e_t)    features [z_t, h_t]

An RNN's z is a point, an SSM has no h but through z. Only f, the posterior and the draw run inside the loop over time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from isochrone.core.route import stop
from isochrone.core.types import Batch, Rollout, Spec
from isochrone.models.base import Model
from isochrone.models.belief import Belief, StateSpaceConfig
from isochrone.models.heads import ContinueHead, RewardHead, quantised
from isochrone.models.openloop import gather_rows
from isochrone.models.overshoot import overshoot
from isochrone.models.unroll import unroll
from isochrone.nets.conv import ENCODERS
from isochrone.nets.dists import Categorical, Gaussian, Point
from isochrone.nets.dynamics import dynamics
from isochrone.nets.fork import Fork
from isochrone.nets.gathered import gathering
from isochrone.nets.norms import Perceptron
from isochrone.nets.senses import Decoder, Encoder
from isochrone.nets.twohot import symlog


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
            self.latent = Categorical(c.stoch, c.classes, c.unimix) if c.classes else Gaussian(c.stoch, c.floor)
        shown = {
            "image_hat": "image" in spec.obs,
            "frames": "image" in spec.obs,
            "vectors_hat": bool(set(spec.obs) - {"image"}),
        }
        self.provides = type(self).provides | {name for name, there in shown.items() if there}
        self.memory = c.deter if self.deterministic else 0
        belief = c.deter if self.deterministic else c.hidden  # what prior and posterior look at
        features = self.latent.flat + self.memory
        self.encoder = Encoder(spec.obs, c.encoder, c.depth, c.embed, c.hidden, c.layers, *inner)
        self.decoder = Decoder(spec.obs, c.encoder, features, c.depth, c.hidden, c.layers, *inner)
        cell = c.cell if self.deterministic else "none"
        self.dynamics: Any = dynamics(cell, self.latent.flat, a, c.deter, c.hidden, *inner, c.blocks)
        self.prior = Perceptron(belief, self.latent.raw, c.hidden, c.prior_layers, *inner)
        looks = belief if c.posterior == "coupled" else 0
        self.posterior = Fork(looks, self.encoder.out, self.latent.raw, c.hidden, c.posterior_layers, *inner)
        self.reward_head = RewardHead(c.reward, features, c.units, c.layers, *inner)
        self.continue_head = ContinueHead(features, c.units, c.layers, *inner)
        self.initial = nn.Parameter(torch.zeros(self.memory)) if c.initial == "learned" and self.memory else None
        # where a bright scene never moves, a network that is normalised inside sees it and little else for long
        self.still: Tensor | None
        self.register_buffer("still", torch.zeros(spec.image) if c.centre else None)
        if c.posterior == "decoupled":
            self.modes = frozenset({"decoupled"} if self.memory else {"decoupled", "decoupled_ssm"})
        self._step: Any = torch.compile(self._filter) if c.run == "step" else self._filter
        self.loop: Any = torch.compile(self.unrolled) if c.run == "full" else self.unrolled

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
        return h, stop(z, "where z begins follows the prior, it does not shape it")

    @torch.no_grad()
    def prime(self, batches: Iterable[Batch]) -> None:
        """With `centre`: the mean of all frames, as the networks see them, is what stands still."""
        if self.still is None:
            return
        means = [quantised(b.obs["image"], self.config.bits, None, self._like.dtype).mean((0, 1)) for b in batches]
        self.still.copy_(torch.stack(means).mean(0))

    def _seen_image(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        still, raw = self.still, image.dtype == torch.uint8
        if raw and still is None and self.config.bits == 8 and self.config.encoder in ENCODERS:
            return image
        image = quantised(image, self.config.bits, rng, self._like.dtype) if raw else image - 0.5
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
        image_hat (B,R,C,Y,X), `decode` rows of each window drawn by `rng` (without one: every row)
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
        count, device = self.config.decode, batch.action.device
        if rng is None or not 0 < count < batch.shape[1]:
            return None
        return torch.rand(batch.shape, generator=rng, device=rng.device).to(device).topk(count, 1).indices

    def unrolled(
        self, first: Tensor, ahead: Tensor, seen: Tensor, noise: Tensor | None, h0: Tensor, z0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, z = h0, z0
        hs, zs, raws = [], [], []
        draws = [None] * len(ahead) if noise is None else noise.unbind()
        with gathering(self.dynamics, self.posterior, on=self.config.run == "loop"):
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
