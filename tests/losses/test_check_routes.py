"""`check_routes` on plain modules: it finds what is wrong, and says nothing when nothing is."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isochrone.core.gradient import EMA, frozen
from isochrone.losses.routes import check_routes


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return nn.ModuleDict({"enc": nn.Linear(3, 2), "head": nn.Linear(2, 1), "other": nn.Linear(2, 1)})


def groups(net: Any) -> dict[str, list[nn.Parameter]]:
    return {name: [*part.parameters()] for name, part in net.items()}


def probes(count: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(5, 3, generator=rng) for _ in range(count)]


def test_a_true_declaration_has_no_fault(net: Any) -> None:
    losses = {
        "both": (lambda x: net.head(net.enc(x)).square().mean(), {"enc", "head"}),
        "through a frozen head": (lambda x: frozen(net.head)(net.enc(x)).square().mean(), {"enc"}),
        "no way": (lambda x: x.sum(), set()),
    }
    routes = check_routes(groups(net), losses, probes(), net)
    assert routes.violations() == []
    assert routes.moved["both"]["head"] > 0
    assert routes.moved["through a frozen head"]["head"] == 0
    rows = routes.table().splitlines()
    assert rows[0] == "| loss | enc | head | other |"
    assert rows[2:] == ["| both | ● | ● | · |", "| through a frozen head | ● | · | · |", "| no way | · | · | · |"]


def test_the_norm_is_the_largest_over_the_probes(net: Any) -> None:
    def loss(x: Tensor) -> Tensor:
        return net.head(net.enc(x)).square().mean()

    sizes = []
    for probe in probes(3):
        net.zero_grad()
        loss(probe).backward()
        sizes.append(math.sqrt(sum(float(p.grad.square().sum()) for p in net.enc.parameters())))
    routes = check_routes(groups(net), {"loss": (loss, {"enc", "head"})}, probes(3))
    assert routes.moved["loss"]["enc"] == pytest.approx(max(sizes), rel=1e-5)


def test_an_undeclared_leak_is_found_however_small(net: Any) -> None:
    losses = {"leaky": (lambda x: net.enc(x).square().mean() + 1e-20 * net.other(net.enc(x)).mean(), {"enc"})}
    (fault,) = check_routes(groups(net), losses, probes(), net).violations()
    assert "loss 'leaky' moves 'other'" in fault
    assert "does not declare it" in fault


def test_a_leak_on_one_probe_only_is_found(net: Any) -> None:
    losses = {"hinge": (lambda x: torch.relu(x[0, 0]) * net.head(net.enc(x)).sum(), {"enc"})}
    waking = torch.ones(5, 3)
    assert any("moves 'head'" in f for f in check_routes(groups(net), losses, [-waking, waking]).violations())


def test_a_dead_declared_route_is_found(net: Any) -> None:
    losses = {"dead": (lambda x: net.head(net.enc(x).detach()).square().mean(), {"enc", "head"})}
    assert check_routes(groups(net), losses, probes(), net).violations() == [
        "loss 'dead' declares 'enc' but no probe gave it a gradient"
    ]


def test_a_gradient_that_is_exactly_zero_is_a_dead_route(net: Any) -> None:
    losses = {"nought": (lambda x: 0 * net.enc(x).sum(), {"enc"})}
    assert "no probe gave it a gradient" in check_routes(groups(net), losses, probes()).violations()[0]


def test_one_waking_probe_is_enough_for_a_hinge(net: Any) -> None:
    losses = {"hinge": (lambda x: torch.relu(x[0, 0]) * net.enc(x).sum(), {"enc"})}
    waking = torch.ones(5, 3)
    assert check_routes(groups(net), losses, [-waking, waking], net).violations() == []
    assert len(check_routes(groups(net), losses, [-waking, -2 * waking], net).violations()) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_declared_gradient_must_be_finite(net: Any, bad: float) -> None:
    losses = {"broken": (lambda x: net.enc(x).mean() * bad, {"enc"})}
    assert check_routes(groups(net), losses, probes(), net).violations() == [
        "loss 'broken' gives 'enc' a gradient that is not finite"
    ]


def test_overlapping_groups_are_refused(net: Any) -> None:
    parts = groups(net) | {"again": [net.enc.weight]}
    with pytest.raises(ValueError, match="disjoint: a parameter is in 'enc' and in 'again'"):
        check_routes(parts, {}, [])


def test_uncovered_parameters_are_refused(net: Any) -> None:
    parts = groups(net)
    del parts["other"]
    with pytest.raises(ValueError, match="in none: other.weight, other.bias"):
        check_routes(parts, {}, [], net)
    assert check_routes(parts, {}, []).violations() == []  # without the module nobody can know


def test_unknown_groups_are_refused(net: Any) -> None:
    with pytest.raises(ValueError, match=r"loss 'x' declares unknown groups \['encoder'\]; the groups are .*'enc'"):
        check_routes(groups(net), {"x": (lambda x: x.sum(), {"encoder"})}, probes())


def test_a_slow_copy_is_in_no_group(net: Any) -> None:
    held = nn.ModuleDict({**net, "slow": EMA(net.enc, 0.1)})
    assert check_routes(groups(net), {}, [], held).violations() == []  # not trainable: needs no group
    with pytest.raises(ValueError, match="group 'slow' holds a weight that takes no gradient"):
        check_routes(groups(net) | {"slow": [*held["slow"].parameters()]}, {}, [], held)


def test_anything_can_be_a_probe_and_groups_may_be_generators(net: Any) -> None:
    losses = {"x": (lambda probe: net.enc(probe.obs).sum() * probe.scale, iter(["enc"]))}
    parts = {name: part.parameters() for name, part in net.items()}
    assert check_routes(parts, losses, [SimpleNamespace(obs=torch.ones(1, 3), scale=2.0)], net).violations() == []


def test_nothing_is_left_behind(net: Any) -> None:
    check_routes(groups(net), {"x": (lambda x: net.enc(x).sum(), {"enc"})}, probes(), net)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
