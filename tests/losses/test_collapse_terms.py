"""VICReg: its two regularisers against numpy, and views in which nothing has moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tinymodel import generator, make_env, tiny, windows

from isochrone.core import registry
from isochrone.core.config import override, validate
from isochrone.core.errors import UserError
from isochrone.core.types import Rollout
from isochrone.losses.collapse import KEEPS_POSITION, MOVES_THINGS, Vicreg, augment, covariance, variance_hinge
from isochrone.losses.pixels import centre_of_mass


def codes(scale: float = 0.7) -> torch.Tensor:
    return torch.randn(20, 6, generator=generator(), dtype=torch.float64) * scale


@pytest.mark.parametrize("scale", [0.1, 0.7, 3.0])
def test_variance_and_covariance_against_numpy(scale: float) -> None:
    z = codes(scale)
    a = z.numpy()
    std = np.sqrt(a.var(0, ddof=1) + 1e-4)
    assert variance_hinge(z).item() == pytest.approx(np.maximum(0, 1 - std).mean())
    cov = np.cov(a.T)
    off = cov - np.diag(np.diag(cov))
    assert covariance(z).item() == pytest.approx((off**2).sum() / 6)


def test_collapse_is_what_they_punish() -> None:
    assert variance_hinge(torch.ones(9, 4)).item() == pytest.approx(0.99)
    line = torch.randn(50, 1, generator=generator()).expand(50, 4)
    assert covariance(line) > 10 * covariance(torch.randn(50, 4, generator=generator()))


def test_the_term_is_their_weighted_sum_on_two_views() -> None:
    model, term, batch = tiny(), registry.get("loss", "vicreg"), windows(1)[0]
    cfg = Vicreg(invariance=3.0, variance=5.0, covariance=7.0)
    rng = generator(2)
    at = torch.randint(12, (6,), generator=rng)
    frames = batch.obs["image"][torch.arange(6), at].float() / 255
    one = model.encode_image(augment(frames, cfg, rng))
    two = model.encode_image(augment(frames, cfg, rng))
    expected = 3 * (one - two).square().mean() + 2.5 * (variance_hinge(one) + variance_hinge(two))
    expected = expected + 7 * (covariance(one) + covariance(two))
    torch.testing.assert_close(term(model, Rollout(batch, {}, generator(2)), cfg), expected)


# --- augmentations


@pytest.mark.parametrize("name", [*KEEPS_POSITION, "all"])
def test_augmentations_keep_everything_in_its_place(name: str) -> None:
    """Each frame is altered, and the box stays where it was, within half a pixel."""
    env = make_env()
    image = env.draw(env.places()[:40]).float() / 255
    cfg = Vicreg(augment=KEEPS_POSITION if name == "all" else (name,))
    view = augment(image, cfg, generator())
    assert view.shape == image.shape
    assert (view != image).flatten(1).any(1).all()
    background = image.mean(0)  # what never moves, as the unaltered frames show it
    tone = view - (view.mean((1, 2, 3), keepdim=True) - image.mean((1, 2, 3), keepdim=True))
    # each with its negative beside it, so that the mean picture is zero and what stands out is the frame itself
    before, _ = centre_of_mass(torch.cat([image - background, -image + background]))
    after, _ = centre_of_mass(torch.cat([tone - background, -tone + background]))
    assert (before - after)[:40].norm(dim=-1).max() < 0.5


def test_views_follow_from_the_generator_alone() -> None:
    image = torch.rand(4, 3, 16, 16, generator=generator())
    one, two = (augment(image, Vicreg(), generator(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, augment(image, Vicreg(), generator(4)))


def test_no_augmentation_no_change() -> None:
    image = torch.rand(4, 3, 16, 16, generator=generator())
    assert torch.equal(augment(image, Vicreg(augment=()), generator()), image)
    assert torch.allclose(augment(image, Vicreg(strength=0.0), generator()), image, atol=1e-6)


@pytest.mark.parametrize("name", MOVES_THINGS)
def test_what_moves_things_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UserError, match=f"augment = '{name}'.*moves objects.*ignore their position.*noise, blur"):
        validate(Vicreg(augment=("noise", name)))
    with pytest.raises(UserError, match="moves objects"):
        override(Vicreg(), {"augment": name})


def test_unknown_augmentations_are_refused() -> None:
    with pytest.raises(UserError, match="augment = 'sparkle': choose from noise, blur, brightness, contrast"):
        validate(Vicreg(augment=("sparkle",)))


def test_both_views_are_trained() -> None:
    """The gradient is that of the value: a view that is stopped, even in one of the three parts, would change it."""
    model = tiny().double()
    term, batch = registry.get("loss", "vicreg"), windows(1)[0]
    batch = batch.replace(obs={"image": batch.obs["image"].double() / 255})
    weights = list(model.encoder.parameters())
    for part in ("invariance", "variance", "covariance"):
        settings = term.settings(**{**dict.fromkeys(("invariance", "variance", "covariance"), 0.0), part: 1.0})

        def value(settings: object = settings) -> torch.Tensor:
            return term(model, Rollout(batch, {}, generator(3)), settings)

        grads = torch.autograd.grad(value(), weights, allow_unused=True)
        size = 1e-6
        along = [torch.randn(p.shape, generator=generator(4)).double() for p in weights]
        analytic = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True) if g is not None)
        both = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(weights, along, strict=True):
                    p += sign * size * d
                both.append(float(value()))
                for p, d in zip(weights, along, strict=True):
                    p -= sign * size * d
        assert (both[0] - both[1]) / (2 * size) == pytest.approx(analytic, rel=1e-3), part
