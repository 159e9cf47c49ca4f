"""The z/h/p model: z what one frame shows, h what is predicted, p where that is in actions.

z = E(image), one frame at a time. h_{t+1} = F(z_t, h_t, a_t), the prediction *before* frame t+1; the state at t is
(z_t, h_t). p = M(z), a measured pose: the same place has the same p in every window, and d_p(a, b) counts actions from
a to b. (docs/background.md, "Three geometries" and "Why the pose is measured")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from isochrone.core.config import option
from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.registry import register
from isochrone.core.tensors import gather_rows, rng_kwargs
from isochrone.core.types import Batch, Spec, Struct
from isochrone.models.base import Model
from isochrone.models.openloop import OpenLoop, contiguous_rows
from isochrone.nets.image import ENCODERS
from isochrone.nets.mlp import Fourier, FourierMLP
from isochrone.nets.quasimetric import METRICS
from isochrone.nets.recurrent import GRU


class ZhpMode(StrEnum):
    """Settings that change which groups a loss moves; losses refer to them."""

    ENCODER_ATTACHED = "encoder_attached"
    """Prediction and pose losses reach the encoder (stop_grad_to_encoder = false)."""
    PREDICTOR_ATTACHED = "predictor_attached"
    """Pose losses reach the predictor (stop_grad_to_predictor = false)."""
    DECODER_DETACHED = "decoder_detached"
    """Reconstruction does not reach the encoder (stop_grad_from_decoder = true)."""
    SUMMED_POSE = "summed_pose"
    """p is the sum of its own steps (pose = summed)."""


@dataclass(frozen=True)
class ZhpConfig:
    """Sizes, and where gradients stop."""

    name: ClassVar[str] = "zhp"
    z: int = option(32, "size of z", ge=2, le=65_536)
    h: int = option(128, "size of h", ge=2, le=65_536)
    p: int = option(64, "size of p", ge=2, le=65_536)
    hidden: int = option(256, "width of the MLPs", ge=8, le=65_536)
    encoder: Literal["patch", "conv"] = option("patch", "patch: fast, for small scenes; conv: everything else")
    depth: int = option(16, "channels of the encoder's first layer", ge=4, le=4096)
    fourier: int = option(512, "Fourier features of z before decoder, predictor and pose (0: none)", ge=0, le=65_536)
    fourier_h2z: int = option(
        0, "the same of h before Hz, for environments with hidden state (0: none)", ge=0, le=65_536
    )
    frequency_predictor: float = option(7.0, "initial frequency of those of F, which must resolve one action", gt=0)
    frequency: float = option(5.0, "initial frequency of the others, in cycles over the spread of z", gt=0)
    metric: Literal["max", "euclidean", "residual", "interval"] = option(
        "max", "d_p: euclidean cannot represent one-way doors"
    )
    pose: Literal["measured", "summed"] = option(
        "measured", "summed: p is the sum of its own steps, a negative control"
    )
    pose_scale: float = option(10.0, "actions per unit of the pose head's output", gt=0)
    imagine_p: Literal["measured", "odometry"] = option(
        "measured", "imagined p: M of imagined z, or p plus predicted steps"
    )
    stop_grad_to_encoder: bool = option(True, "no prediction or pose loss reaches the encoder")
    stop_grad_to_predictor: bool = option(True, "no pose loss reaches the predictor")
    stop_grad_from_decoder: bool = option(False, "reconstruction trains the decoder only")
    open_loop: int = option(2, "K: steps of the shared open-loop rollout", ge=2, le=65_536)
    rollout_starts: int = option(1, "open-loop starts per window", ge=1, le=65_536)
    decode_rows: int = option(1, "rows of each window that are decoded in training (0: all)", ge=0, le=65_536)

    def check(self, path: str) -> None:
        """Raise UserError for a summed pose with attached gradients, which no loss is declared for."""
        if self.pose == "summed" and not (self.stop_grad_to_encoder and self.stop_grad_to_predictor):
            raise UserError(
                f"{path}pose = 'summed' is a control with stopped gradients: "
                f"keep {path}stop_grad_to_encoder and {path}stop_grad_to_predictor true"
            )

    def modes(self) -> frozenset[ZhpMode]:
        """The modes that these settings amount to."""
        active = {
            ZhpMode.ENCODER_ATTACHED: not self.stop_grad_to_encoder,
            ZhpMode.PREDICTOR_ATTACHED: not self.stop_grad_to_predictor,
            ZhpMode.DECODER_DETACHED: self.stop_grad_from_decoder,
            ZhpMode.SUMMED_POSE: self.pose == "summed",
        }
        return frozenset(mode for mode, on in active.items() if on)


@dataclass(frozen=True)
class ZhpState(Struct):
    """(z, h, p); `fresh` rows have not filtered a frame yet."""

    z: Float[Tensor, "*B Z"]
    h: Float[Tensor, "*B D"]
    p: Float[Tensor, "*B P"]
    fresh: Bool[Tensor, "*B"]

    def feat(self) -> Float[Tensor, "*B F"]:
        """[z, h]."""
        return torch.cat([self.z, self.h], -1)


@register("model", "zhp")
class ZHP(Model):
    """The model. `spec` describes the environment's observations (an image) and actions."""

    Config = ZhpConfig
    cacheable_field = "z"
    provides = frozenset({"z", "z_in", "h", "z_hat", "p", "dp", "recon", "recon_rows", "open_loop", "states"})

    def __init__(self, config: ZhpConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.action = config, spec.action
        c, a = config, spec.action.size
        make_encoder, make_decoder = ENCODERS[c.encoder]
        mlp = partial(FourierMLP, hidden=c.hidden)
        waves: dict[str, Any] = {"fourier": c.fourier, "scale": c.frequency}
        self.encoder = make_encoder(spec.image, c.z, c.depth, c.hidden)
        features = [Fourier(c.z, c.fourier, c.frequency)] if c.fourier else []
        self.decoder = nn.Sequential(*features, make_decoder(spec.image, c.z + c.fourier, c.depth, c.hidden))
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
        # linear read-outs of what moved in the image, in units of ten pixels
        self.displacement_head, self.displacement_head_h = (nn.Linear(n, 2, bias=False) for n in (c.z, c.h))
        self.modes = config.modes()
        self.step_ignores = frozenset({"p"})
        self.step_stops = frozenset({"p"} if c.pose == "summed" or c.imagine_p == "odometry" else ())

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
        groups = {name: list(params) for name, params in parts.items()}
        return {name: params for name, params in groups.items() if params}

    # --- the maps between image, z, h and p

    def encode_image(self, image: Tensor) -> Float[Tensor, "... Z"]:
        """image (..., C, Y, X), uint8 or 0..1 -> z = E(image)."""
        return self.normalize_z(self.encoder(image))

    @staticmethod
    def normalize_z(z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B Z"]:
        """Mean 0 and variance 1 over each z: losses and frequencies keep their scale, imagined z stay bounded."""
        return nn.functional.layer_norm(z, z.shape[-1:])

    def predict_z(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B Z"]:
        """The z that h predicts: Hz(h)."""
        return self.normalize_z(self.h2z(h))

    def decode(self, state: ZhpState) -> Float[Tensor, "... C Y X"]:
        """The image of a state's z, about 0..1."""
        return self.decoder(state.z)

    def pose_of(self, z: Float[Tensor, "... Z"]) -> Float[Tensor, "... P"]:
        """p = M(z)."""
        return self.pose(z) * self.config.pose_scale

    def predict(self, z: Tensor, h: Tensor, action: Tensor) -> Float[Tensor, "... D"]:
        """h' = F(z, h, a)."""
        return self.cell(self.embed(torch.cat([z, action], -1)), h)

    def odometry(self, p: Tensor, h: Tensor, action: Tensor) -> Float[Tensor, "... P"]:
        """The predicted step of p: G(p, h, a). By default no gradient reaches h and p."""
        if self.config.stop_grad_to_predictor:
            h = stop_gradient(h, "pose losses do not train the predictor (stop_grad_to_predictor)")
        if self.config.stop_grad_to_encoder:
            p = stop_gradient(p, "odometry reads the pose and does not train it (stop_grad_to_encoder)")
        scaled = 3 * p / self.config.pose_scale  # so that places one action apart differ enough at the input
        return self.delta_p(torch.cat([scaled, h, action], -1))

    def distance(self, a: ZhpState, b: ZhpState, space: str = "p") -> Tensor:
        """From a to b, broadcast: 'p' in actions, 'z' Euclidean in z, 'mixed' p plus a tenth of z."""
        if space == "p":
            return self.metric(a.p, b.p)
        in_z = (a.z - b.z).square().sum(-1).add(1e-12).sqrt()
        return in_z if space == "z" else self.metric(a.p, b.p) + 0.1 * in_z

    def disagreement(self, a: ZhpState, b: ZhpState) -> Tensor:
        """z-distance per step of p: large for near places that look different (pipes), small for far ones (walls)."""
        return self.distance(a, b, "z") / (1 + self.distance(a, b, "p"))

    # --- acting and imagining

    def start(self, batch: int) -> ZhpState:
        """State[B] before the first frame: the first `update` fills it from its frame."""
        device = self.lagrange_log_multiplier.device
        zeros = partial(torch.zeros, batch, device=device)
        c = self.config
        return ZhpState(zeros(c.z), zeros(c.h), zeros(c.p), torch.ones(batch, dtype=torch.bool, device=device))

    def update(
        self,
        state: ZhpState,
        action: Float[Tensor, "B A"],
        obs: Mapping[str, Tensor],
        rng: torch.Generator | None = None,
    ) -> ZhpState:
        """Filter in one real frame; `action` led to it and is ignored on fresh rows. Nothing is sampled."""
        z = self.encode_image(obs["image"])  # (B, Z)
        fresh = state.fresh[..., None]
        h = torch.where(fresh, self.z2h(z), self.predict(state.z, state.h, action))  # (B, D)
        if self.config.pose == "measured":
            p = self.pose_of(z)
        else:
            p = torch.where(fresh, torch.zeros_like(state.p), state.p + self.odometry(state.p, state.h, action))
        return ZhpState(z, h, p, torch.zeros_like(state.fresh))

    def step(self, state: ZhpState, action: Float[Tensor, "... A"], rng: torch.Generator | None = None) -> ZhpState:
        """One imagined step. Nothing is sampled."""
        h = self.predict(state.z, state.h, action)
        z = self.predict_z(h)
        if self.config.pose == "measured" and self.config.imagine_p == "measured":
            return ZhpState(z, h, self.pose_of(z), state.fresh)
        return ZhpState(z, h, state.p + self.odometry(state.p, state.h, action), state.fresh)

    # --- observing: encode, filter, heads

    def encode(self, batch: Batch, needs: frozenset[str], rng: torch.Generator | None) -> dict[str, Any]:
        """z (B,T,Z), and z_in, the same as h and p read it: stopped with `stop_grad_to_encoder`."""
        z = batch.cached["z"] if "z" in batch.cached else self.encode_image(batch.obs["image"])
        if not self.config.stop_grad_to_encoder:
            return {"z": z, "z_in": z}
        return {
            "z": z,
            "z_in": stop_gradient(z, "no prediction or pose loss trains the encoder (stop_grad_to_encoder)"),
        }

    def filter(
        self, batch: Batch, fields: Mapping[str, Any], needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """h (B,T,D), where a needed field depends on it."""
        uses_h = {"h", "z_hat", "dp", "open_loop", "states"} | ({"p"} if self.config.pose == "summed" else set())
        return {"h": self.teacher_forced(fields["z_in"], batch)} if needs & uses_h else {}

    def heads(
        self, batch: Batch, fields: Mapping[str, Any], needs: frozenset[str], rng: torch.Generator | None
    ) -> dict[str, Any]:
        """The other fields, as far as needed (T' = T - 1)::

        z_hat (B,T',Z) = Hz(h_{t+1})   p (B,T,P)   dp (B,T',P)   states: ZhpState (B,T), with z_in
        recon (B,R,C,Y,X), at rows recon_rows (R) of every window   open_loop: OpenLoop; `rng` samples rows and starts
        """
        out: dict[str, Any] = {}
        z, h = fields["z_in"], fields.get("h")
        if "z_hat" in needs:
            out["z_hat"] = self.predict_z(fields["h"][:, 1:])
        if needs & {"p", "dp", "states"}:
            out["p"], out["dp"] = self._poses(z, h, batch, "dp" in needs)
        if "recon" in needs:
            out["recon_rows"], out["recon"] = self._reconstruct(fields["z"], rng)
        if "open_loop" in needs:
            out["open_loop"] = self._open_loop(z, fields["h"], batch, rng)
        if "states" in needs:
            out["states"] = ZhpState(z, fields["h"], out["p"], torch.zeros_like(batch.first))
        return out

    def teacher_forced(self, z: Float[Tensor, "B T Z"], batch: Batch) -> Float[Tensor, "B T D"]:
        """h_t with the true z as inputs; an episode's first row starts from its own frame."""
        inputs = self.cell.project(self.embed(torch.cat([z, batch.action], -1)))  # (B, T, 3D), before the loop
        initial = self.z2h(z)  # (B, T, D): only first rows are used
        h = initial[:, 0]
        hs = [h]
        for t in range(z.shape[1] - 1):
            h = self.cell.step(inputs[:, t], h)
            h = torch.where(batch.first[:, t + 1, None], initial[:, t + 1], h)
            hs.append(h)
        return torch.stack(hs, 1)

    def _poses(self, z: Tensor, h: Tensor | None, batch: Batch, steps: bool) -> tuple[Tensor, Tensor | None]:
        """p (B,T,P), and with `steps` dp (B,T',P)."""
        if self.config.pose == "measured":
            p = self.pose_of(z)
            return p, self.odometry(p[:, :-1], h[:, :-1], batch.action[:, :-1]) if steps and h is not None else None
        assert h is not None
        p = torch.zeros(*z.shape[:1], self.config.p, device=z.device)
        poses, deltas = [p], []
        for t in range(z.shape[1] - 1):
            deltas.append(self.odometry(p, h[:, t], batch.action[:, t]))
            p = p + deltas[-1]
            poses.append(p)
        return torch.stack(poses, 1), torch.stack(deltas, 1)

    def _reconstruct(self, z: Tensor, rng: torch.Generator | None) -> tuple[Int64[Tensor, "R"], Tensor]:
        """R contiguous rows, the same of every window, sampled by `rng` (without: every row), and their images."""
        rows = contiguous_rows(z.shape[1], self.config.decode_rows if rng else 0, rng, z.device)
        z = z.index_select(1, rows)
        if self.config.stop_grad_from_decoder:
            z = stop_gradient(z, "reconstruction trains the decoder only (stop_grad_from_decoder)")
        return rows, self.decoder(z)

    def _open_loop(self, z: Tensor, h: Tensor, batch: Batch, rng: torch.Generator | None) -> OpenLoop:
        """K imagined steps from random rows of each window. UserError without rng, or if windows are too short."""
        b, length = z.shape[:2]
        k = self.config.open_loop
        if rng is None:
            raise UserError("open_loop samples its start rows: pass an rng to observe")
        if length <= k:
            raise UserError(f"windows of {length} rows cannot hold open-loop rollouts of {k} steps: raise train.length")
        starts = torch.randint(length - k, (b, self.config.rollout_starts), **rng_kwargs(rng)).to(z.device)  # (B, S)
        rows = starts[..., None] + torch.arange(k, device=z.device)  # (B, S, K): start .. start + K - 1
        actions = gather_rows(batch.action, rows)  # (B, S, K, A)
        valid = gather_rows(batch.connected(1), rows).cumprod(-1).bool()  # (B, S, K)
        z, h = gather_rows(z, starts), gather_rows(h, starts)
        zs, hs = [], []
        for i in range(k):
            h = self.predict(z, h, actions[:, :, i])
            z = self.predict_z(h)
            zs.append(z)
            hs.append(h)
        return OpenLoop(starts, valid, torch.stack(zs, 2), torch.stack(hs, 2))
