"""Heads on the features of a state-space model: reward and continuation, each with its mean and its likelihood."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from isochrone.nets.norms import Perceptron
from isochrone.nets.twohot import bins, symexp, symlog, two_hot_mean, two_hot_nll

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
