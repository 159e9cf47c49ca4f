"""symlog, symexp and two-hot targets: numbers of any size as a classification (Hafner et al. 2023, eq. 1, 8 and 9)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def symlog(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The inverse of symlog: sign(x) (e^|x| - 1)."""
    return x.sign() * x.abs().expm1()


def bins(count: int = 255, limit: float = 20.0, spaced: str = "symexp", **kinds) -> Float[Tensor, "K"]:
    """Places of the classes, exactly antisymmetric: even in symlog space, given there ('symlog') or in x ('symexp')."""
    if count < 3 or count % 2 == 0:
        raise ValueError(f"two-hot: {count} bins; an odd number of at least 3 has one at zero")
    half = torch.linspace(0, limit, count // 2 + 1, **kinds)
    half = symexp(half) if spaced == "symexp" else half
    return torch.cat([-half[1:].flip(0), half])


def two_hot(x: Float[Tensor, "*B"], places: Float[Tensor, "K"]) -> Float[Tensor, "*B K"]:
    """Weights on the two places around x that average to x; what lies outside goes to the outermost place."""
    x = x.clamp(places[0], places[-1])
    above = torch.searchsorted(places, x.contiguous()).clamp(1, len(places) - 1)
    low, high = places[above - 1], places[above]
    share = ((x - low) / (high - low)).clamp(0, 1)  # (*B)
    weights = torch.zeros(*x.shape, len(places), device=x.device, dtype=places.dtype)
    weights.scatter_(-1, (above - 1)[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, above[..., None], share[..., None])


def two_hot_nll(
    logits: Float[Tensor, "*B K"], x: Float[Tensor, "*B"], places: Float[Tensor, "K"]
) -> Float[Tensor, "*B"]:
    """Cross-entropy of the two-hot target, nats."""
    return -(two_hot(x, places) * logits.log_softmax(-1)).sum(-1)


def two_hot_mean(logits: Float[Tensor, "*B K"], places: Float[Tensor, "K"]) -> Float[Tensor, "*B"]:
    """Expected place. Mirrored places are paired first, so that even odds give exactly 0 however sums are fused."""
    probs, half = logits.softmax(-1), len(places) // 2
    right, left = probs[..., half + 1 :], probs[..., :half].flip(-1)
    return ((right - left) * places[half + 1 :]).sum(-1)
