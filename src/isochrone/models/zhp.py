"""z/h/p: what is seen, what is believed, and where one is in actions (seeds/000 and 002; the spec's section 2).

z = E(image), one frame at a time. h_{t+1} = F(z_t, h_t, a_t), the belief *before* frame t+1 is seen; the state at t is
(z_t, h_t). p = M(z), a measured pose: the same place has the same p in every window, and d_p(a, b) counts actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.registry import register
from isochrone.core.tensors import rng_kwargs
from isochrone.core.types import Batch, Rollout, Spec, Struct
from isochrone.models.base import Model
from isochrone.models.openloop import OpenLoop, gather_rows, neighbours
from isochrone.nets.image import ENCODERS
from isochrone.nets.mlp import MLP, Fourier
from isochrone.nets.quasimetric import METRICS
from isochrone.nets.recurrent import GRU


@dataclass(frozen=True)
class ZhpConfig:
    """Sizes, and where gradients stop."""

    name: ClassVar[str] = "zhp"
    z: int = option(32, "size of z", ge=2)
    h: int = option(128, "size of h", ge=2)
    p: int = option(64, "size of p", ge=2)
    hidden: int = option(256, "width of the perceptrons", ge=8)
    encoder: Literal["patch", "conv"] = option("patch", "patch: fast, small scenes; conv: everything else")
    depth: int = option(16, "channels of the encoder's first layer", ge=4)
    fourier: int = option(512, "Fourier features of z before decoder, predictor and pose (0: none)", ge=0)
    fourier_h2z: int = option(0, "the same of h before Hz, where h must move what one frame does not show", ge=0)
    frequency_predictor: float = option(7.0, "starting frequency of those in F: places one action apart differ", gt=0)
    frequency: float = option(5.0, "their starting frequency, in cycles over z's spread", gt=0)
    metric: Literal["max", "euclidean", "residual", "interval"] = option(
        "max", "d_p: euclidean is blind to one-way doors"
    )
    pose: Literal["measured", "summed"] = option(
        "measured", "summed: p is the sum of its own steps, a negative control"
    )
    pose_scale: float = option(10.0, "actions per unit of the pose head's output", gt=0)
    imagine_p: Literal["measured", "odometry"] = option(
        "measured", "imagined p: M of imagined z, or p plus summed steps"
    )
    stop_grad_to_encoder: bool = option(True, "no belief or pose loss reaches the encoder")
    stop_grad_to_predictor: bool = option(True, "no pose loss reaches the predictor")
    stop_grad_from_decoder: bool = option(False, "reconstruction trains the decoder only")
    open_loop: int = option(2, "K: steps of the shared open-loop rollout", ge=2)
    rollout_starts: int = option(1, "open-loop starts per window", ge=1)
    decode_rows: int = option(1, "rows of each window that are decoded in training (0: all)", ge=0)

    def check(self, path: str) -> None:
        """The negative control exists in the notes' own mode only."""
        if self.pose == "summed" and not (self.stop_grad_to_encoder and self.stop_grad_to_predictor):
            raise UserError(
                f"{path}pose = 'summed' is a control with stopped gradients: "
                f"keep {path}stop_grad_to_encoder and {path}stop_grad_to_predictor true"
            )


@dataclass(frozen=True)
class ZhpState(Struct):
    """(z, h, p), and whether the row has seen nothing yet."""

    z: Float[Tensor, "*B Z"]
    h: Float[Tensor, "*B D"]
    p: Float[Tensor, "*B P"]
    fresh: Bool[Tensor, "*B"]

    def feat(self) -> Float[Tensor, "*B F"]:
        return torch.cat([self.z, self.h], -1)


@register("model", "zhp")
class ZHP(Model):
    """The model. `spec` says what the world shows and takes."""

    Config = ZhpConfig
    framewise = "z"
    provides = frozenset({"z", "z_in", "h", "z_hat", "p", "dp", "recon", "recon_rows", "open_loop"})

    def __init__(self, config: ZhpConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.action = config, spec.action
        c, a = config, spec.action.size
        make_encoder, make_decoder = ENCODERS[c.encoder]
        mlp = partial(MLP, hidden=c.hidden)
        waves: dict[str, Any] = {"fourier": c.fourier, "scale": c.frequency}
        self.encoder = make_encoder(spec.image, c.z, c.depth, c.hidden)
        see = [Fourier(c.z, c.fourier, c.frequency)] if c.fourier else []
        self.decoder = nn.Sequential(*see, make_decoder(spec.image, c.z + c.fourier, c.depth, c.hidden))
        self.embed = mlp(c.z + a, c.hidden, layers=1, skip=True, fourier=c.fourier, scale=c.frequency_predictor)
        self.cell = GRU(c.hidden, c.h)
        self.h2z = mlp(c.h, c.z, skip=True, fourier=c.fourier_h2z, scale=c.frequency)
        self.z2h = mlp(c.z, c.h, skip=True)
        self.pose = mlp(c.z, c.p, **waves)
        self.delta_p = mlp(c.p + c.h + a, c.p, **waves)
        self.metric = METRICS[c.metric](c.p)
        self.delta_h = mlp(c.h + a, c.h)
        self.prototypes = nn.ParameterDict(
            {k: torch.randn(a, n) * 0.1 for k, n in (("z", c.z), ("h", c.h), ("p", c.p))}
        )
        self.inverse = nn.ModuleDict({k: mlp(2 * n, a) for k, n in (("z", c.z), ("p", c.p))})
        self.inverse["h"] = mlp(2 * c.h, a)
        self.inverse["dp"] = mlp(c.p, a)
        self.lagrange_log_multiplier = nn.Parameter(torch.tensor(0.0))
        self.displacement_head, self.displacement_head_h = (
            nn.Linear(n, 2, bias=False) for n in (c.z, c.h)
        )  # read off what moves in the picture
        attached = {"encoder_attached"} if not c.stop_grad_to_encoder else set()
        shaping = {"predictor_attached"} if not c.stop_grad_to_predictor else set()
        blind = {"decoder_detached"} if c.stop_grad_from_decoder else set()
        summed = {"summed_pose"} if c.pose == "summed" else set()
        self.modes = frozenset(attached | shaping | blind | summed)

    # --- parts

    def encode(self, image: Tensor) -> Float[Tensor, "... Z"]:
        """image (..., C, Y, X), uint8 or 0..1 -> z."""
        return self.on_sphere(self.encoder(image))

    @staticmethod
    def on_sphere(z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B Z"]:
        """Mean 0 and variance 1 over each z: losses and frequencies keep their scale, imagined z cannot run away."""
        return nn.functional.layer_norm(z, z.shape[-1:])

    def believe(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B Z"]:
        """The z that a belief expects: Hz(h)."""
        return self.on_sphere(self.h2z(h))

    def decode(self, z: Float[Tensor, "... Z"]) -> Float[Tensor, "... C Y X"]:
        """z -> image, about 0..1."""
        return self.decoder(z)

    def measure_p(self, z: Float[Tensor, "... Z"]) -> Float[Tensor, "... P"]:
        """p = M(z)."""
        return self.pose(z) * self.config.pose_scale

    def predict(self, z: Tensor, h: Tensor, action: Tensor) -> Float[Tensor, "... D"]:
        """h' = F(z, h, a)."""
        return self.cell(self.embed(torch.cat([z, action], -1)), h)

    def odometry(self, p: Tensor, h: Tensor, action: Tensor) -> Float[Tensor, "... P"]:
        """The predicted step of p: G(p, h, a). The default detach holds h (and p's origin) out of it."""
        if self.config.stop_grad_to_predictor:
            h = stop_gradient(h, "pose losses must not shape belief (stop_grad_to_predictor)")
        if self.config.stop_grad_to_encoder:
            p = stop_gradient(p, "odometry reads the pose, it does not choose it")
        near = 3 * p / self.config.pose_scale  # so that neighbouring places, one action apart, look different
        return self.delta_p(torch.cat([near, h, action], -1))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The partition that routes are declared in."""
        parts: dict[str, Iterable[nn.Parameter]] = {
            "encoder": self.encoder.parameters(),
            "decoder": self.decoder.parameters(),
            "predictor": [*self.embed.parameters(), *self.cell.parameters()],
            "h2z": self.h2z.parameters(),
            "z2h": self.z2h.parameters(),
            "pose": self.pose.parameters(),
            "delta_p": self.delta_p.parameters(),
            "metric": self.metric.parameters(),
            "delta_h": self.delta_h.parameters(),
            "lagrange_log_multiplier": [self.lagrange_log_multiplier],
            "displacement_head": self.displacement_head.parameters(),
            "displacement_head_h": self.displacement_head_h.parameters(),
        }
        parts |= {f"prototypes_{k}": [v] for k, v in self.prototypes.items()}
        parts |= {f"inverse_{k}": v.parameters() for k, v in self.inverse.items()}
        filled = {name: list(params) for name, params in parts.items()}
        return {name: params for name, params in filled.items() if params}

    # --- acting and imagining

    def start(self, batch: int) -> ZhpState:
        """A belief that has seen nothing: the first `update` fills it from its frame."""
        like = self.lagrange_log_multiplier
        empty = partial(torch.zeros, device=like.device)
        c = self.config
        return ZhpState(
            empty(batch, c.z),
            empty(batch, c.h),
            empty(batch, c.p),
            torch.ones(batch, dtype=torch.bool, device=like.device),
        )

    def update(self, state: ZhpState, action: Float[Tensor, "B A"], obs: Mapping[str, Tensor]) -> ZhpState:
        """Filter one real frame in; `action` is the one that led to it (ignored on fresh rows)."""
        z = self.encode(obs["image"])  # (B, Z)
        fresh = state.fresh[..., None]
        h = torch.where(fresh, self.z2h(z), self.predict(state.z, state.h, action))  # (B, D)
        if self.config.pose == "measured":
            p = self.measure_p(z)
        else:
            p = torch.where(fresh, torch.zeros_like(state.p), state.p + self.odometry(state.p, state.h, action))
        return ZhpState(z, h, p, torch.zeros_like(state.fresh))

    def step(self, state: ZhpState, action: Float[Tensor, "... A"]) -> ZhpState:
        """One imagined step."""
        h = self.predict(state.z, state.h, action)
        z = self.believe(h)
        if self.config.pose == "measured" and self.config.imagine_p == "measured":
            return ZhpState(z, h, self.measure_p(z), state.fresh)
        return ZhpState(z, h, state.p + self.odometry(state.p, state.h, action), state.fresh)

    def distance(self, a: ZhpState, b: ZhpState, space: str = "p") -> Tensor:
        """From a to b, broadcast: 'p' in actions, 'z' Euclidean in z, 'mixed' p plus a tenth of z."""
        if space == "p":
            return self.metric(a.p, b.p)
        seen = (a.z - b.z).square().sum(-1).add(1e-12).sqrt()
        return seen if space == "z" else self.metric(a.p, b.p) + 0.1 * seen

    def disagreement(self, a: ZhpState, b: ZhpState) -> Tensor:
        """z-distance per step of p: large where things look far and are near (pipe), small behind a wall."""
        return self.distance(a, b, "z") / (1 + self.distance(a, b, "p"))

    # --- observing

    def observe(self, batch: Batch, needs: Iterable[str], rng: torch.Generator | None = None) -> Rollout:
        """Fill the asked fields (T' = T - 1)::

        z (B,T,Z)  z_in: z as h and p see it  h (B,T,D)  z_hat (B,T',Z) = Hz(h_{t+1})  p (B,T,P)  dp (B,T',P)
        recon (B,R,C,Y,X), rows recon_rows (R) of every window  open_loop: OpenLoop, starts drawn by `rng`
        """
        needs = self.wants(needs)
        z = batch.cached["z"] if "z" in batch.cached else self.encode(batch.obs["image"])
        out: dict[str, Any] = {"z": z}
        if self.config.stop_grad_to_encoder:
            z = stop_gradient(z, "no belief or pose loss reaches the encoder (stop_grad_to_encoder)")
        out["z_in"] = z
        if needs & {"h", "z_hat", "dp", "open_loop"} or (self.config.pose == "summed" and "p" in needs):
            out["h"] = self._teach(z, batch)
        if "z_hat" in needs:
            out["z_hat"] = self.believe(out["h"][:, 1:])
        if needs & {"p", "dp"}:
            out["p"], out["dp"] = self._poses(z, out.get("h"), batch, "dp" in needs)
        if "recon" in needs:
            out["recon_rows"], out["recon"] = self._decoded(out["z"], rng)
        if "open_loop" in needs:
            out["open_loop"] = self._open_loop(z, out["h"], batch, rng)
        return Rollout(batch, out, rng)

    def _decoded(self, z: Tensor, rng: torch.Generator | None) -> tuple[Int64[Tensor, "R"], Tensor]:
        """R neighbouring rows of every window: which, drawn by `rng` (without one: every row); and their pictures."""
        rows = neighbours(z.shape[1], self.config.decode_rows if rng else 0, rng, z.device)
        seen = z.index_select(1, rows)
        return rows, self.decode(
            stop_gradient(seen, "stop_grad_from_decoder") if self.config.stop_grad_from_decoder else seen
        )

    def _teach(self, z: Tensor, batch: Batch) -> Float[Tensor, "B T D"]:
        """Beliefs h_t with true frames fed in; a new episode starts again from its first frame."""
        inputs = self.cell.project(self.embed(torch.cat([z, batch.action], -1)))  # (B, T, 3D), hoisted out of the loop
        births = self.z2h(z)  # (B, T, D): only first rows are used
        h = births[:, 0]
        beliefs = [h]
        for t in range(z.shape[1] - 1):
            h = self.cell.step(inputs[:, t], h)
            h = torch.where(batch.first[:, t + 1, None], births[:, t + 1], h)
            beliefs.append(h)
        return torch.stack(beliefs, 1)

    def _poses(self, z: Tensor, h: Tensor | None, batch: Batch, steps: bool) -> tuple[Tensor, Tensor | None]:
        if self.config.pose == "measured":
            p = self.measure_p(z)
            return p, self.odometry(p[:, :-1], h[:, :-1], batch.action[:, :-1]) if steps and h is not None else None
        assert h is not None
        p = torch.zeros(*z.shape[:1], self.config.p, device=z.device)
        poses, deltas = [p], []
        for t in range(z.shape[1] - 1):
            deltas.append(self.odometry(p, h[:, t], batch.action[:, t]))
            p = p + deltas[-1]
            poses.append(p)
        return torch.stack(poses, 1), torch.stack(deltas, 1)

    def _open_loop(self, z: Tensor, h: Tensor, batch: Batch, rng: torch.Generator | None) -> OpenLoop:
        b, length = z.shape[:2]
        k = self.config.open_loop
        if rng is None:
            raise UserError("open_loop draws its starts: give observe an rng")
        if length <= k:
            raise UserError(f"windows of {length} rows cannot hold open-loop rollouts of {k} steps: raise train.length")
        starts = torch.randint(length - k, (b, self.config.rollout_starts), **rng_kwargs(rng)).to(z.device)  # (B, S)
        rows = starts[..., None] + torch.arange(k, device=z.device)  # (B, S, K): start .. start + K - 1
        moves = gather_rows(batch.action, rows)  # (B, S, K, A)
        valid = gather_rows(batch.connected(1), rows).cumprod(-1).bool()  # (B, S, K)
        z, h = gather_rows(z, starts), gather_rows(h, starts)
        zs, hs = [], []
        for i in range(k):
            h = self.predict(z, h, moves[:, :, i])
            z = self.believe(h)
            zs.append(z)
            hs.append(h)
        return OpenLoop(starts, valid, torch.stack(zs, 2), torch.stack(hs, 2))
