"""Pixel losses against slow references, and on the scene they were made for: one small box on black."""

from __future__ import annotations

import pytest
import torch
from tinymodel import generator, make_env, recorded
from torch import Tensor
from torch.nn import functional as F

from isochrone.core import registry
from isochrone.core.types import Batch, Rollout
from isochrone.losses.pixels import Boxes, centre_of_mass, local_mean, multi_box

NONE = torch.nn.Identity()  # these terms ask nothing of the model
SHAPES = [(2, 3, 16, 16), (1, 1, 8, 12), (3, 2, 20, 8)]


def slow_local_mean(e: list[list[float]], y: int, x: int, box: int) -> float:
    """Mean over the box around (y, x), pixels outside the picture left out."""
    half, near = box // 2, []
    for v in range(max(0, y - half), min(len(e), y + half + 1)):
        for u in range(max(0, x - half), min(len(e[0]), x + half + 1)):
            near.append(e[v][u])
    return sum(near) / len(near)


def slow_multi_box(guess: Tensor, truth: Tensor, cfg: Boxes) -> Tensor:
    """The formula of the spec's section 6, pixel by pixel, one image (C, Y, X); weights as plain numbers."""
    total = guess.new_zeros(())
    for s in range(cfg.scales):
        side = 2**s
        rows, columns = guess.shape[1] // side, guess.shape[2] // side
        error = {}
        for y in range(rows):
            for x in range(columns):
                block = (slice(None), slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
                error[y, x] = (guess[block].mean((1, 2)) - truth[block].mean((1, 2))).abs().mean()
        known = [[float(error[y, x].detach()) for x in range(columns)] for y in range(rows)]
        for (y, x), e in error.items():
            near = max(slow_local_mean(known, y, x, cfg.box), cfg.min_local_mean)
            weight = min((known[y][x] / near) ** cfg.beta, cfg.cap)
            total = total + cfg.decay**s * weight * e
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "cfg", [Boxes(), Boxes(scales=2, decay=0.25, beta=1.0, cap=1.5, box=5), Boxes(beta=0.0), Boxes(min_local_mean=1e-6)]
)
def test_multi_box_is_the_formula(shape: tuple[int, ...], cfg: Boxes) -> None:
    rng = generator(3)
    guess = torch.rand(*shape, generator=rng, dtype=torch.float64, requires_grad=True)
    truth = (torch.rand(*shape, generator=rng, dtype=torch.float64) > 0.8).double()
    ours = multi_box(guess, truth, cfg)
    theirs = torch.stack([slow_multi_box(g, t, cfg) for g, t in zip(guess, truth, strict=True)])
    torch.testing.assert_close(ours, theirs)
    # the weight is stopped in both: the gradients tell
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), guess)[0], torch.autograd.grad(theirs.sum(), guess)[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("box", [3, 5, 9])
def test_local_mean_is_one_square_pooling(shape: tuple[int, ...], box: int) -> None:
    x = torch.rand(*shape, generator=generator(1), dtype=torch.float64)
    expected = F.avg_pool2d(x, box, 1, box // 2, count_include_pad=False)
    torch.testing.assert_close(local_mean(x, box), expected)


def test_zero_error_has_zero_loss_and_finite_gradient() -> None:
    same = torch.zeros(1, 3, 16, 16, requires_grad=True)
    loss = multi_box(same, torch.zeros(1, 3, 16, 16), Boxes()).sum()
    assert loss == 0
    assert torch.autograd.grad(loss, same)[0].isfinite().all()


def scene(x: int, y: int) -> Tensor:
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, y : y + 4, x : x + 4] = 1.0
    return image


def latent_fit(loss, steps: int) -> tuple[float, float]:
    """(worst position error in pixels, worst brightness) of a decoder from free codes to the box at 16 places.

    Beside it stands a latent loss of weight 1 that would like every code to be zero, as there is in every recipe.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codes = torch.nn.Parameter(torch.randn(16, 8))
        decoder = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.SiLU(), torch.nn.Linear(64, 3 * 32 * 32))
    places = [(x, y) for x in (2, 10, 18, 26) for y in (2, 10, 18, 26)]
    truth = torch.cat([scene(x, y) for x, y in places])
    optimizer = torch.optim.Adam([codes, *decoder.parameters()], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(decoder(codes).reshape(16, 3, 32, 32), truth) + codes.square().sum(-1).mean()).backward()
        optimizer.step()
    image = decoder(codes).detach().reshape(16, 3, 32, 32)
    found, _ = centre_of_mass(image)
    bright = torch.stack([i[:, y : y + 4, x : x + 4].mean() for i, (x, y) in zip(image, places, strict=True)])
    return float((found - torch.tensor(places) - 1.5).norm(dim=-1).max()), float(bright.min())


def test_multi_box_decodes_every_box_beside_a_latent_loss() -> None:
    error, bright = latent_fit(lambda g, t: multi_box(g, t, Boxes()).mean(), 160)
    assert error < 1
    assert bright > 0.9
    error, bright = latent_fit(lambda g, t: (g - t).square().mean(), 160)
    assert error > 4
    assert bright < 0.5


def test_small_min_local_mean_prefers_black() -> None:
    """Why `floor` is not the 1e-6 of the notes: on a scene that is nearly all black, the median is black."""
    _, bright = latent_fit(lambda g, t: multi_box(g, t, Boxes(min_local_mean=1e-6)).mean(), 160)
    assert bright < 0.1


# --- in a rollout


def rollout(first: int, rows: int, guess: float = 0.0) -> tuple[Batch, Rollout]:
    batch = recorded().sample(3, 12, generator(4))
    recon = torch.full((3, rows, 3, 64, 64), guess)
    return batch, Rollout(batch, {"recon": recon, "recon_rows": first + torch.arange(recon.shape[1])}, generator())


@pytest.mark.parametrize(("first", "rows"), [(0, 12), (0, 4), (5, 3), (8, 4)])
def test_only_the_decoded_rows_are_compared(first: int, rows: int) -> None:
    batch, roll = rollout(first, rows)
    seen = batch.obs["image"][:, first : first + rows].float() / 255
    each = torch.stack([multi_box(torch.zeros_like(seen[:, t]), seen[:, t], Boxes()) for t in range(rows)], 1)
    torch.testing.assert_close(registry.get("loss", "recon_multi_box")(NONE, roll), each.mean())


@pytest.mark.parametrize(("first", "rows"), [(0, 12), (0, 4), (5, 3), (8, 4)])
def test_differences_stop_at_an_episodes_end(first: int, rows: int) -> None:
    batch, roll = rollout(first, rows)
    seen, costs = batch.obs["image"].float() / 255, []
    for b in range(3):
        for t in range(first, first + rows - 1):
            if not batch.last[b, t]:
                change = (seen[b, t + 1] - seen[b, t])[None]
                costs.append(multi_box(torch.zeros_like(change), change, Boxes()))
    torch.testing.assert_close(registry.get("loss", "pixel_delta_multi_box")(NONE, roll), torch.cat(costs).mean())


def test_a_right_picture_costs_nothing() -> None:
    batch, _ = rollout(0, 12)
    roll = Rollout(batch, {"recon": batch.obs["image"].float() / 255, "recon_rows": torch.arange(batch.shape[1])})
    assert registry.get("loss", "recon_multi_box")(NONE, roll) == 0
    assert registry.get("loss", "pixel_delta_multi_box")(NONE, roll) == 0


# --- where things are, from pixels alone


def test_centre_of_mass_is_exact_on_the_white_box() -> None:
    env = make_env()
    places = env.places()
    where, mass = centre_of_mass(env.draw(places).float() / 255)
    torch.testing.assert_close(where, places.position + 1.5, atol=0.02, rtol=0)
    assert bool((mass > 1).all())


def test_centre_of_mass_of_nothing_is_finite() -> None:
    where, mass = centre_of_mass(torch.zeros(3, 3, 16, 16))
    assert where.isfinite().all()
    assert bool((mass <= 1e-6).all())
