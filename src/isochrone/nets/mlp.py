"""Multi-layer perceptrons, the normalisations and activations that they take by name, and their initial weights.

`MLP` is that of the state-space models (normalisation and activation by name, truncated normal weights), `TwoInputMLP`
the same for two inputs, one of them projected for all rows before the loop, `FourierMLP` that of the z/h/p model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.nets.linear import DeferredGradLinear

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda size: nn.Identity(),
    "layer": lambda size: nn.LayerNorm(size, eps=1e-3),
    "rms": lambda size: nn.RMSNorm(size, eps=1e-4),
}
ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "elu": nn.functional.elu,
    "silu": nn.functional.silu,
    "none": lambda x: x,
}


@dataclass(frozen=True)
class MLPConfig:
    """Hidden layers of an MLP: their width and number, and the names of their normalisation and activation."""

    hidden: int
    layers: int = 1
    norm: Literal["none", "layer", "rms"] = "none"
    act: Literal["relu", "elu", "silu", "none"] = "elu"

    @property
    def biased(self) -> bool:
        """Hidden layers have a bias only where no normalisation follows."""
        return self.norm == "none"


def trunc_normal(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Fill with a normal truncated at two standard deviations, widened so that its variance is scale / fan_in.

    JAX's variance scaling divides by .8796 as here; dreamerv3-torch truncates at +-2.0 instead of +-2 std.
    """
    std = math.sqrt(scale / fan_in) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def dense(size: int, out: int, bias: bool = True, fan_in: int = 0, scale: float = 1.0) -> DeferredGradLinear:
    """A linear layer with truncated normal weights and zero bias.

    `fan_in` is the input size of the whole layer where this is only one summand of it.
    """
    layer = DeferredGradLinear(size, out, bias=bias)
    trunc_normal(layer.weight, fan_in or size, scale)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """`config.layers` times Linear, norm, act; then one Linear, whose initial variance is scaled by `out_scale`."""

    def __init__(self, size: int, out: int, config: MLPConfig, out_scale: float = 1.0) -> None:
        super().__init__()
        self.act = ACTS[config.act]
        widths = [size] + [config.hidden] * config.layers
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.dense = nn.ModuleList(dense(a, b, config.biased) for a, b in pairs)
        self.norms = nn.ModuleList(NORMS[config.norm](b) for _, b in pairs)
        self.head = dense(widths[-1], out, scale=max(out_scale, 1e-12))
        if out_scale == 0:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        for layer, norm in zip(self.dense, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.head(x)


class TwoInputMLP(nn.Module):
    """MLP of [h, e] with at least one hidden layer. `precompute(e)` is the embedding's share of the first layer.

    It does not depend on h, so it is computed for all time steps in one product before the loop. With h of size 0 the
    network does not depend on h at all (the decoupled posterior).
    """

    def __init__(self, h: int, embed: int, out: int, config: MLPConfig) -> None:
        super().__init__()
        self.h = dense(h, config.hidden, bias=False, fan_in=h + embed) if h else None
        self.e = dense(embed, config.hidden, bias=config.biased, fan_in=h + embed)
        self.norm, self.act = NORMS[config.norm](config.hidden), ACTS[config.act]
        self.rest = MLP(config.hidden, out, replace(config, layers=config.layers - 1))

    def precompute(self, embed: Float[Tensor, "*B E"]) -> Float[Tensor, "*B U"]:
        """The embedding's share of the first layer."""
        return self.e(embed)

    def forward(self, h: Float[Tensor, "*B D"] | None, precomputed: Float[Tensor, "*B U"]) -> Float[Tensor, "*B R"]:
        """The output for h and `precompute(e)`; h is None where it is not looked at."""
        if self.h is not None and h is not None:
            precomputed = self.h(h, precomputed)
        return self.rest(self.act(self.norm(precomputed)))


class Fourier(nn.Module):
    """x -> [x, sin(Wx + b)] with trainable W ~ N(0, scale^2 / size) (Tancik et al. 2020, eq. 5; W is learned here).

    MLPs learn sharp functions late (spectral bias); the distance d_p jumps across walls, where z hardly changes.
    """

    def __init__(self, size: int, count: int, scale: float) -> None:
        super().__init__()
        self.wave = nn.Linear(size, count)
        self.out = size + count
        nn.init.normal_(self.wave.weight, std=scale / math.sqrt(size))
        nn.init.uniform_(self.wave.bias, -math.pi, math.pi)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return torch.cat([x, torch.sin(self.wave(x))], -1)


class FourierMLP(nn.Module):
    """`layers` hidden layers of Linear, LayerNorm, SiLU, then one Linear.

    `fourier` > 0 puts that many Fourier features of frequency `scale` in front; `skip` adds a linear map of the input,
    so that the identity need not be learned.
    """

    def __init__(
        self,
        size: int,
        out: int,
        hidden: int,
        layers: int = 2,
        fourier: int = 0,
        scale: float = 1.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(size, out, bias=False) if skip else None
        parts: list[nn.Module] = []
        if fourier:
            parts.append(Fourier(size, fourier, scale))
            size += fourier
        for _ in range(layers):
            parts += [nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.SiLU()]
            size = hidden
        parts.append(nn.Linear(size, out))
        self.net = nn.Sequential(*parts)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return self.net(x) if self.skip is None else self.net(x) + self.skip(x)
